import numpy as np
import pytest
from scipy import ndimage

from fedsam.ct_kidney_phantom import CORTEX, SITES, CtKidneyPhantom, Ellipsoid, PhantomCase, Tissue
from shared.errors import UsageError


def phantom_cases(**options: object) -> list[PhantomCase]:
    return list(CtKidneyPhantom(**options).load().train)  # type: ignore[arg-type]


def test_the_sites_have_the_case_counts_of_fed_kits2019() -> None:
    sets = CtKidneyPhantom().load()
    assert [[sum(c.site == site for c in part) for site in SITES] for part in (sets.train, sets.test)] == [
        [9, 11, 9, 9, 12, 24],
        [3, 3, 3, 3, 4, 6],
    ]
    small = CtKidneyPhantom(scale=0.01).load()
    assert (len(small.train), len(small.test)) == (12, 6)
    assert sets.class_names == ("background", "kidney", "tumour")
    assert sum(sets.weights.values()) == pytest.approx(1)


def test_labels_are_present_at_every_site() -> None:
    cases = phantom_cases(scale=0.01)
    for site in SITES:
        volumes = [case.read() for case in cases if case.site == site]
        labels = np.concatenate([v.label.ravel() for v in volumes if v.label is not None])
        counts = np.bincount(labels, minlength=3)
        assert (counts > 50).all(), site
        assert all(v.image.shape == (24, 96, 96) for v in volumes)
        assert volumes[0].spacing.tolist() == [SITES[site].thickness, 3.75, 3.75]
        assert volumes[0].provenance == "synthetic"


@pytest.mark.parametrize("number", [0, 3, 5, 8])
def test_structures_have_their_hu(number: int) -> None:
    case = phantom_cases(scale=0.01, size=160)[number]
    patient, layers = case.tissues()
    volume = case.read()
    noise = SITES[case.site].noise
    checked = 0
    for tissue in (Tissue.AIR, Tissue.FAT, Tissue.MUSCLE, Tissue.VESSEL, Tissue.CORTEX, Tissue.MEDULLA, Tissue.LIVER):
        within = (layers == tissue).all(1)
        core = ndimage.binary_erosion(within, np.ones((1, 3, 3)))
        if core.sum() < 60 or tissue == Tissue.AIR:
            continue
        expected = patient.hounsfield[tissue] + SITES[case.site].offset
        # The noise is coloured: its mean over n voxels varies by less than 3 sd / sqrt(n / 8).
        assert volume.image[core].mean() == pytest.approx(expected, abs=3 * noise / np.sqrt(core.sum() / 8) + 2), tissue
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("site", SITES)
def test_the_noise_of_a_site_is_as_strong_as_it_says(site: str) -> None:
    case = next(c for c in phantom_cases(scale=0.01) if c.site == site)
    _, layers = case.tissues()
    core = ndimage.binary_erosion((layers == Tissue.FAT).all(1), np.ones((1, 3, 3)))
    assert case.read().image[core].std() == pytest.approx(SITES[site].noise, rel=0.15)


def test_tumours_lie_on_the_cortex_and_leave_kidney() -> None:
    sizes = []
    for case in phantom_cases(scale=0.34):
        patient, _ = case.drawn()
        if patient.tumour is None:
            continue
        sizes.append(patient.tumour.radii.mean())
        cloud = np.random.default_rng(0).uniform(-1, 1, (3000, 3))
        points = patient.tumour.centre + cloud[(cloud**2).sum(1) <= 1] * patient.tumour.radii
        inside = max(np.mean([k.contains(z, y, x) for z, y, x in points]) for k in patient.kidneys)
        assert 0.15 <= inside <= 0.75
        assert (patient.necrosis is not None) == (patient.tumour.radii.mean() > 20)
        for kidney in patient.kidneys:  # a tumour never covers all of a kidney
            points = kidney.centre + cloud[(cloud**2).sum(1) <= 1] * kidney.radii
            assert np.mean([patient.tumour.contains(z, y, x) for z, y, x in points]) < 0.8
    assert 7 < min(sizes) < max(sizes) < 39


def test_phases_and_rims_by_their_numbers() -> None:
    cases = phantom_cases()
    cortex = {site: [c.drawn()[0].hounsfield[Tissue.CORTEX] for c in cases if c.site == site] for site in SITES}
    assert np.mean(cortex["site-A"]) > np.mean(cortex["site-C"]) > np.mean(cortex["site-E"])
    ball = Ellipsoid(np.zeros(3), np.full(3, 30.0), tilt=0.3)
    line = np.linspace(0, 40, 401)[:, None]
    rim = ball.contains(0, line, np.zeros((1, 1))) & ~ball.contains(0, line, np.zeros((1, 1)), -CORTEX)
    assert rim.sum() * 0.1 == pytest.approx(CORTEX, abs=0.2)
    surface = ball.surface(np.array([1.0, 2.0, -1.0]))
    assert ball.level(surface[0], surface[1], surface[2]) == pytest.approx(1)


def test_a_case_depends_on_its_place_alone() -> None:
    few, many = phantom_cases(scale=0.01), phantom_cases(scale=0.5)
    other = next(c for c in many if (c.site, c.case) == (few[3].site, few[3].case))
    one, two = few[3].read(), other.read()
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.label, two.label)
    assert few[3].fingerprint() == other.fingerprint()
    assert not np.array_equal(phantom_cases(scale=0.01, seed=1)[3].read().image, one.image)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": 0}, r"data.source.scale must lie in \(0, 1\], got 0"),
        ({"slices": 4}, "data.source.slices must be at least 5, got 4"),
        ({"size": 8}, "data.source.size must be at least 32, got 8"),
    ],
)
def test_bad_options_of_the_phantom(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        CtKidneyPhantom(**options)  # type: ignore[arg-type]
