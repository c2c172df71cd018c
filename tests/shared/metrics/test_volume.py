import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from shared.errors import UsageError
from shared.metrics.volume import (
    VolumeMetrics,
    dice_score,
    hausdorff_95,
    surface_dice,
    surface_distances,
    surface_points,
)

SPACING = (3.0, 0.8, 1.3)


def blob(shape: tuple[int, int, int], seed: int, level: float = 0.0) -> np.ndarray:
    """A smooth random mask that may touch the border."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    mask: np.ndarray = noise > level * noise.std()
    return mask


def one_hot(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask)[None, None].float()


@given(st.integers(0, 200), st.sampled_from([-0.5, 0.0, 1.0]), st.integers(6, 14))
def test_distances_equal_a_distance_transform(seed: int, level: float, side: int) -> None:
    a, b = blob((side, 9, 8), seed, level), blob((side, 9, 8), seed + 1000, level)
    if not a.any() or not b.any():
        return
    to_b, to_a = surface_distances(a, b, SPACING)
    for mask, other, got in ((a, b, to_b), (b, a, to_a)):
        edges = []
        for m in (mask, other):
            padded, edge = np.pad(m, 1), np.zeros_like(m)
            for x, y, z in np.argwhere(m):
                around = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
                edge[x, y, z] = not all(padded[x + i, y + j, z + k] for i, j, k in around)
            edges.append(edge)
        expected = distance_transform_edt(~edges[1], sampling=SPACING)[edges[0]]
        np.testing.assert_allclose(np.sort(got), np.sort(expected), atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # monai about itself
@pytest.mark.parametrize("seed", range(4))
def test_hd95_and_surface_dice_equal_monai(seed: int) -> None:
    a, b = blob((20, 24, 22), seed, 0.5), blob((20, 24, 22), seed + 50, 0.5)
    both = surface_distances(a, b, SPACING)
    theirs = compute_hausdorff_distance(one_hot(a), one_hot(b), include_background=True, percentile=95, spacing=SPACING)
    assert hausdorff_95(*both) == pytest.approx(float(theirs), rel=1e-5)
    nsd = compute_surface_dice(one_hot(a), one_hot(b), [2.0], include_background=True, spacing=SPACING)
    assert surface_dice(*both, tolerance=2.0) == pytest.approx(float(nsd), rel=1e-6)


def test_shifted_cubes() -> None:
    a = np.zeros((20, 20, 20), bool)
    a[5:10, 5:10, 5:10] = True
    b = np.roll(a, 3, axis=0)
    for spacing, distance in (((1, 1, 1), 3.0), ((2.5, 1, 1), 7.5)):
        both = surface_distances(a, b, spacing)
        assert hausdorff_95(*both) == distance
        assert surface_dice(*both, tolerance=distance) == 1
        assert surface_dice(*both, tolerance=distance - 0.1) < 1
    assert len(surface_points(a, (1, 1, 1))) == 5**3 - 3**3


def test_dice_rules() -> None:
    assert dice_score(0, 0, 0) == 1
    assert dice_score(7, 0, 0) == dice_score(0, 7, 0) == 0
    assert dice_score(2, 4, 2) == pytest.approx(2 / 3)  # half of the truth, nothing else


def labels(seed: int, shape: tuple[int, int, int] = (6, 10, 9)) -> Tensor:
    return torch.from_numpy(np.where(blob(shape, seed), np.where(blob(shape, seed + 7), 2, 1), 0).astype(np.uint8))


def plain_dice(p: Tensor, g: Tensor, wanted: list[int]) -> float:
    a, b = np.isin(p, wanted), np.isin(g, wanted)
    if not a.any() and not b.any():
        return 1.0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


VOLUMES = [("B", "1"), ("A", "1"), ("B", "2"), ("A", "2"), ("B", "3"), ("C", "1")]


def filled(which: range | list[int] = range(6), **kwargs: Any) -> VolumeMetrics:
    metrics = VolumeMetrics(["kidney", "tumour"], groups={"both": [1, 2]}, **kwargs)
    for i in which:
        site, case = VOLUMES[i]
        metrics.update(labels(i), labels(i + 20), SPACING, site, case)
    return metrics


def test_means_over_volumes_classes_and_sites() -> None:
    scores = filled().compute()
    table = {
        (site, case): [plain_dice(labels(i), labels(i + 20), wanted) for wanted in ([1], [2], [1, 2])]
        for i, (site, case) in enumerate(VOLUMES)
    }
    sites = {s: np.mean([row for (site, _), row in table.items() if site == s], axis=0) for s in "ABC"}
    assert float(scores["dice"]) == pytest.approx(np.mean([row[:2].mean() for row in sites.values()]))
    assert float(scores["dice_pooled"]) == pytest.approx(np.mean([row[:2] for row in table.values()]))
    assert abs(float(scores["dice"] - scores["dice_pooled"])) > 1e-4
    assert float(scores["dice/class_both"]) == pytest.approx(np.mean([row[2] for row in sites.values()]))
    assert float(scores["dice_pooled/class_tumour"]) == pytest.approx(np.mean([row[1] for row in table.values()]))
    assert float(scores["dice/site_B"]) == pytest.approx(sites["B"][:2].mean())
    assert float(scores["dice/site_B/class_kidney"]) == pytest.approx(sites["B"][0])
    assert float(scores["volumes"]) == 6
    assert all(float(scores[name]) > 0 for name in ("hd95", "hd95_pooled", "surface_dice", "surface_dice_pooled"))
    assert not any(name.startswith("hd95") for name in filled(distances=False).compute())
    records = filled().volumes()
    assert len(records) == 18
    assert records[0]["site"] == "A"
    assert records[0]["dice"] == pytest.approx(table["A", "1"][0])


def test_empty_masks_are_counted_and_leave_no_distance() -> None:
    metrics = VolumeMetrics(["kidney", "tumour"])
    nothing, some = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    some[1, 1:3, 1:3] = 1
    metrics.update(some, some, (1, 1, 1), "A", "both")
    metrics.update(nothing, some, (1, 1, 1), "A", "missed")
    scores = {name: float(value) for name, value in metrics.compute().items()}
    assert scores["dice/class_kidney"] == 0.5
    assert scores["dice/class_tumour"] == 1
    assert scores["both_empty/class_tumour"] == 2
    assert scores["one_empty/class_kidney"] == 1
    assert scores["one_empty/class_tumour"] == scores["both_empty/class_kidney"] == 0
    assert scores["hd95/class_kidney"] == 0  # the one defined volume
    assert math.isnan(scores["hd95/class_tumour"])
    assert scores["hd95"] == 0  # of the one defined class
    assert scores["surface_dice"] == 1


def test_ignored_voxels_count_nowhere() -> None:
    truth = labels(3)
    truth[2] = 255
    prediction = labels(4)
    one, other = VolumeMetrics(["a", "b"]), VolumeMetrics(["a", "b"])
    one.update(prediction, truth, SPACING, "A", "1")
    prediction, truth = prediction.clone(), truth.clone()
    prediction[2] = truth[2] = 0
    other.update(prediction, truth, SPACING, "A", "1")
    assert one.compute() == other.compute()


def test_processes_and_order_change_nothing() -> None:
    whole = filled().compute()
    parts = [filled([5, 1, 2]), filled([4, 3, 0])]
    merged = filled([5, 1, 2])
    merged.distributed_available_fn = lambda: True
    states = {name: [torch.cat(getattr(part, name)) for part in parts] for name in ("rows", "sites", "cases")}
    order = iter(["rows", "sites", "cases"])
    merged.dist_sync_fn = lambda value, group=None: states[next(order)]
    together = merged.compute()
    assert together.keys() == whole.keys()
    for name in whole:
        assert torch.equal(together[name], whole[name]) or whole[name].isnan(), name


def test_wrong_input_is_refused() -> None:
    metrics, volume = VolumeMetrics(["a"]), torch.zeros(2, 3, 3, dtype=torch.uint8)
    with pytest.raises(UsageError, match="an evaluation needs at least one volume, got none"):
        metrics._table()
    with pytest.raises(UsageError, match=r"volumes of one shape .* got \(2, 3, 3\) and \(2, 3\)"):
        metrics.update(volume, volume[:, 0], (1, 1, 1), "A", "1")
    with pytest.raises(UsageError, match=r"spacing must be three positive lengths in mm, got \[1.0, 0.0, 1.0\]"):
        metrics.update(volume, volume, (1, 0, 1), "A", "1")
    with pytest.raises(UsageError, match=r"labels must lie in 0..1 \(num_classes=2\), got label 2"):
        metrics.update(volume + 2, volume, (1, 1, 1), "A", "1")
    with pytest.raises(UsageError, match="names of sites and cases must have 1 to 96 bytes, got 0"):
        metrics.update(volume, volume, (1, 1, 1), "", "1")
    with pytest.raises(UsageError, match=r"groups.all must list labels of 1..1, got \[1, 2\]"):
        VolumeMetrics(["a"], groups={"all": [1, 2]})
    with pytest.raises(UsageError, match="must be distinct names"):
        VolumeMetrics(["a"], groups={"a": [1]})
    with pytest.raises(UsageError, match="tolerance must be positive, got 0"):
        VolumeMetrics(["a"], tolerance=0)
