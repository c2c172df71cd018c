import importlib.util
import os
import zlib
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from fedsam.mini_ixi import MINI_IXI_FILE, MINI_IXI_SHA256, SITES, MiniIxi
from fedsam.mini_tissue import MINI_TISSUE_FILE, MINI_TISSUE_SHA256, MiniTissue
from fedsam.virtual_subjects import (
    Appearance,
    Template,
    bias_field,
    deformed,
    jacobian_determinant,
    scanned,
    smooth_warp,
    upsampling_matrix,
)
from fedsam.volumes import Volume
from shared.errors import UsageError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_embedded", REPOSITORY / "tools/build_embedded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("file", "checksum"), [(MINI_IXI_FILE, MINI_IXI_SHA256), (MINI_TISSUE_FILE, MINI_TISSUE_SHA256)]
)
def test_the_shipped_files_are_the_published_ones(file: str, checksum: str) -> None:
    folder = files("fedsam")
    content = folder.joinpath(*file.split("/")).read_bytes()
    assert sha256(content).hexdigest() == checksum
    assert len(content) < 600_000
    licences = folder.joinpath("samples", "DATA_LICENSES.md").read_text(encoding="utf-8")
    assert checksum in licences
    assert "Colin27" in licences
    assert "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre" in licences


@pytest.mark.parametrize(
    ("sample", "variable", "default", "checksum"),
    [
        ("mini-ixi", "MEDLEY_MRICRON", "/usr/share/mricron/templates", MINI_IXI_SHA256),
        ("mini-tissue", "MEDLEY_NILEARN", "nilearn/datasets/data", MINI_TISSUE_SHA256),
    ],
)
def test_the_tool_rebuilds_the_shipped_files(
    tool: ModuleType, sample: str, variable: str, default: str, checksum: str
) -> None:
    root = Path(os.environ.get(variable, default))
    if not root.is_dir():
        pytest.skip(f"needs the source package of {sample} in {root}; {variable} names another place")
    arrays = tool.SAMPLES[sample].build(root)
    template = (MiniIxi() if sample == "mini-ixi" else MiniTissue()).template()
    np.testing.assert_array_equal(arrays["image"], template.image)
    np.testing.assert_array_equal(arrays["label"], template.label)
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng compresses the same arrays into other bytes
        assert sha256(tool.npz_bytes(arrays)).hexdigest() == checksum


def test_halving_is_linear_resampling_between_the_voxels(tool: ModuleType) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (7, 8, 6)).astype(np.uint8)
    between = np.stack(np.meshgrid(*[np.arange(n // 2) * 2 + 0.5 for n in volume.shape], indexing="ij"))
    expected = ndimage.map_coordinates(volume.astype(float), between, order=1)
    np.testing.assert_allclose(tool.halved(volume), expected, atol=1e-12)
    affine = np.array([[1.0, 0, 0, -90], [0, 1, 0, -125], [0, 0, 1, -71], [0, 0, 0, 1]])
    np.testing.assert_allclose(tool.halved_affine(affine, (2, 0, 0)) @ [1, 1, 1, 1], [-85.5, -122.5, -68.5, 1])


def best_window_dice(image: np.ndarray, label: np.ndarray) -> float:
    """Dice of the best rule ``low <= value <= high``, over all pairs."""
    values = np.unique(image)
    inside = np.searchsorted(np.sort(image[label > 0]), values, side="right")
    below = np.searchsorted(np.sort(image.ravel()), values, side="right")
    hits, taken = np.r_[0, inside], np.r_[0, below]
    low, high = np.triu_indices(len(hits), 1)
    return float((2 * (hits[high] - hits[low]) / (taken[high] - taken[low] + label.sum())).max())


def undeformed(source: MiniIxi | MiniTissue) -> Volume:
    return source.load().test[0].read()


def test_the_floors_of_a_single_intensity_window() -> None:
    head, tissue = undeformed(MiniIxi()), undeformed(MiniTissue())
    assert head.label is not None
    assert tissue.label is not None
    assert best_window_dice(head.image, head.label) == pytest.approx(0.7754, abs=5e-4)
    assert best_window_dice(tissue.image, tissue.label) == pytest.approx(0.9636, abs=5e-4)
    assert head.image.shape == (90, 90, 108)
    assert head.affine is not None
    assert (head.case, head.site, head.provenance) == ("colin27", "site-A", "real")
    assert head.label.mean() == pytest.approx(0.251, abs=1e-3)
    assert head.spacing.tolist() == [2, 2, 2]
    assert (tissue.case, tissue.provenance) == ("icbm152", "derived")
    # The middle of the head: z = 0 in millimetres lies at slice 35.25, and so on.
    np.testing.assert_allclose(np.linalg.inv(head.affine) @ [0, 0, 0, 1], [35.25, 44.75, 62.25, 1])


def test_the_sites_have_their_subjects_and_their_looks() -> None:
    sets = MiniIxi().load()
    counts = {split: [sum(c.site == site for c in sets.cases(split)) for site in SITES] for split in ("train", "test")}  # type: ignore[arg-type]
    assert counts == {"train": [6, 4, 2], "test": [2, 1, 1]}
    assert [sum(c.site == site for c in sets.validation) for site in SITES] == [2, 1, 1]
    assert sets.class_names == ("background", "brain")
    assert [c.provenance for c in sets.test] == ["real", "derived", "derived", "derived"]
    volumes = [case.read() for case in sets.test[1:]]
    assert [v.image.shape for v in volumes] == [(90, 90, 108), (90, 90, 108), (45, 90, 108)]
    assert [v.spacing[0] for v in volumes] == [2, 2, 4]
    for volume in volumes:
        assert volume.label is not None
        assert set(np.unique(volume.label)) == {0, 1}
        assert 0.15 < volume.label.mean() < 0.35
        assert volume.image.dtype == np.float32
        assert volume.image.min() >= 0
        air = volume.image[-3:, :4, :4]  # Rayleigh: its mean is sigma * sqrt(pi / 2)
        assert air.mean() == pytest.approx(SITES[volume.site].noise * np.sqrt(np.pi / 2), rel=0.3)


def test_a_subject_depends_on_its_place_alone() -> None:
    few, many = MiniIxi(train=(1, 2, 1)).load(), MiniIxi(train=(3, 3, 2)).load()
    one, other = (next(c for c in s.train if (c.site, c.case) == ("site-B", "train-01")) for s in (many, few))
    first = one.read()
    next(iter(many.train)).read()
    again = other.read()
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert one.fingerprint() == other.fingerprint()
    assert not np.array_equal(MiniIxi(seed=1).load().train[1].read().label, many.train[1].read().label)
    assert len({str(c.fingerprint()) for c in [*many.train, *many.validation, *many.test]}) == 8 + 4 + 4


@pytest.mark.parametrize("seed", range(3))
def test_warps_stay_short_and_fold_nothing(seed: int) -> None:
    spacing = np.array([4.0, 4.0, 4.0])
    warp = smooth_warp((45, 54, 45), spacing, np.random.default_rng(seed))
    assert np.abs(warp).max() <= 8
    assert 2 < warp.std() < 4.5
    assert jacobian_determinant(warp, spacing).min() > 0.2


def test_the_jacobian_of_a_linear_map_is_its_determinant() -> None:
    linear = np.array([[0.1, 0.2, -0.1], [0.0, -0.2, 0.3], [0.05, 0.1, 0.2]])
    grid = np.stack(np.meshgrid(np.arange(5) * 2.0, np.arange(6) * 3.0, np.arange(4) * 1.5, indexing="ij"))
    field = np.einsum("ab,bxyz->axyz", linear, grid)
    expected = np.linalg.det(np.eye(3) + linear)
    np.testing.assert_allclose(jacobian_determinant(field, np.array([2.0, 3.0, 1.5])), expected)


def test_upsampling_passes_through_the_control_values() -> None:
    values = np.random.default_rng(0).normal(size=6)
    upsampled = upsampling_matrix(6, 51) @ values
    np.testing.assert_allclose(upsampled[::10], values, atol=1e-12)
    np.testing.assert_allclose(upsampling_matrix(7, 20).sum(1), 1)
    np.testing.assert_allclose(
        upsampling_matrix(6, 90), ndimage.zoom(np.eye(6), (15, 1), order=3, mode="mirror"), atol=1e-9
    )


def test_image_and_mask_go_through_the_same_map() -> None:
    mask = np.zeros((40, 44, 40), np.uint8)
    mask[12:28, 12:30, 12:28] = 1
    image, label = deformed(Template(255 * mask, mask, np.diag([4.0, 4, 4, 1]), ""), np.random.default_rng(2))
    assert 0.6 < label.sum() / mask.sum() < 1.7
    assert np.mean((image > 0.5) != (label > 0)) < 0.01
    assert np.mean(label != mask) > 0.01


def test_appearances_by_their_formulas() -> None:
    rng = np.random.default_rng
    image = np.random.default_rng(0).random((20, 22, 18)).astype(np.float32)
    np.testing.assert_array_equal(scanned(image, Appearance(), rng(0)), image)
    np.testing.assert_allclose(scanned(image, Appearance(gamma=0.75), rng(0)), image**0.75)
    field = bias_field(image.shape, 0.25, rng(3))
    assert np.abs(field - 1).max() == pytest.approx(0.25, rel=1e-5)
    np.testing.assert_allclose(scanned(image, Appearance(bias=0.25), rng(3)), image * field, rtol=1e-6)
    along = np.diff(field[:, 5, 5], n=4)  # a polynomial of order three has no fourth difference
    assert np.abs(along).max() < 1e-5
    blurred = scanned(image, Appearance(blur=0.7), rng(0))
    np.testing.assert_allclose(blurred[..., 4], ndimage.gaussian_filter(image[..., 4], 0.7), rtol=1e-5)
    flat = scanned(np.full((40, 40, 40), 0.5, np.float32), Appearance(noise=0.03), rng(0))
    assert flat.std() == pytest.approx(0.03, rel=0.02)  # far from zero Rician noise is nearly normal
    assert np.mean(flat**2) == pytest.approx(0.5**2 + 2 * 0.03**2, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": (0, 1, 1)}, r"data.source.train must be 3 numbers, one per site, of at least 1, got \[0, 1, 1\]"),
        ({"validation": (1, 1)}, r"data.source.validation must be 3 numbers, one per site, of at least 0"),
        ({"seed": -1}, r"data.source.seed must be at least 0, got -1"),
    ],
)
def test_bad_options_of_virtual_heads(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        MiniTissue(**options)  # type: ignore[arg-type]
