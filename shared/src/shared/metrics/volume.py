"""Scores of segmented volumes: Dice, 95 % Hausdorff distance and surface Dice, by class and by site."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from shared.errors import UsageError
from shared.metrics.classification import check_labels

IGNORED = 255
NAME_BYTES = 96
SCORES = ("dice", "hd95", "surface_dice")


def dice_score(predicted: int, true: int, common: int) -> float:
    r"""Dice of two masks from their sizes, :math:`2 |P \cap G| / (|P| + |G|)`.

    Two empty masks agree: 1. Exactly one empty mask: 0.

    Example:
        >>> dice_score(0, 0, 0), dice_score(5, 0, 0), dice_score(2, 1, 1)
        (1.0, 0.0, 0.6666666666666666)
    """
    return 2 * common / (predicted + true) if predicted + true else 1.0


def surface_points(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Where the surface voxels of a mask lie, ``(n, 3)`` in mm.

    A voxel of the mask is on the surface if one of its six neighbours is not; outside the volume none is.

    Args:
        mask: ``(X, Y, Z)`` bool.
        spacing: Size of a voxel along each axis in mm.
    """
    from scipy.ndimage import binary_erosion

    surface = mask & ~binary_erosion(mask)
    return np.argwhere(surface) * np.asarray(spacing, dtype=np.float64)


def surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm of each surface voxel of ``a`` to the surface of ``b``, and of ``b`` to that of ``a``.

    Exact, between centres of voxels: as from a Euclidean distance transform, but by nearest neighbours among surface
    voxels, of which there are far fewer than voxels.

    Args:
        a: ``(X, Y, Z)`` bool, not empty.
        b: The same shape, not empty.
        spacing: Size of a voxel along each axis in mm.
    """
    from scipy.spatial import cKDTree

    both = a | b
    box = []
    for axis in range(both.ndim):
        along = np.flatnonzero(both.any(axis=tuple(i for i in range(both.ndim) if i != axis)))
        box.append(slice(along[0], along[-1] + 1))
    points_a, points_b = (surface_points(mask[tuple(box)], spacing) for mask in (a, b))
    return cKDTree(points_b).query(points_a)[0], cKDTree(points_a).query(points_b)[0]


def hausdorff_95(to_b: np.ndarray, to_a: np.ndarray) -> float:
    """The greater of the 95th percentiles of both directions, in mm, from :func:`surface_distances`.

    Percentiles interpolate linearly between order statistics, as in monai.
    """
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


def surface_dice(to_b: np.ndarray, to_a: np.ndarray, tolerance: float) -> float:
    r"""Share of both surfaces within ``tolerance`` mm of the other one, from :func:`surface_distances`.

    .. math:: \frac{|\{p \in S_P : d(p, S_G) \le \tau\}| + |\{g \in S_G : d(g, S_P) \le \tau\}|}{|S_P| + |S_G|}

    Surfaces are counted in voxels, as in monai without subvoxels (Nikolov et al., 2018, weigh by area).
    """
    # Distances are square roots: one that equals the tolerance must not fall outside by the last bit.
    limit = tolerance * (1 + 1e-9)
    return float((to_b <= limit).sum() + (to_a <= limit).sum()) / (len(to_b) + len(to_a))


def _encoded(name: str) -> Tensor:
    raw = name.encode()
    if not 0 < len(raw) <= NAME_BYTES:
        raise UsageError(f"names of sites and cases must have 1 to {NAME_BYTES} bytes, got {len(raw)}: {name!r}")
    return torch.tensor(list(raw.ljust(NAME_BYTES, b"\0")), dtype=torch.uint8)


def _decoded(row: Tensor) -> str:
    return bytes(row.tolist()).rstrip(b"\0").decode()


class VolumeMetrics(Metric):
    r"""Dice, HD95 and surface Dice of whole volumes, per class and per site.

    A score of a site and class is the mean over the site's volumes; of a site, the mean of its classes. Two numbers
    stand for all sites: the unweighted mean over sites (``dice``) and the mean over all volumes, whatever their site
    (``dice_pooled``). Publications differ in which one they mean.

    Empty masks: Dice is 1 where prediction and truth are both empty, 0 where exactly one is. Distances are undefined
    where either is empty; such volumes are left out of the means of ``hd95`` and ``surface_dice``, and counted. A mean
    of nothing is NaN and is left out of the means above it.

    Args:
        class_names: Names of the foreground classes; label ``i + 1`` is ``class_names[i]``.
        groups: Further masks made of several labels, name to labels: ``{"kidney_with_tumour": [1, 2]}``. They are
            reported beside the classes and count in no mean over classes.
        distances: Whether to compute HD95 and surface Dice, which take longer than Dice.
        tolerance: Of surface Dice, in mm.
        **kwargs: As for any torchmetrics metric. ``sync_on_compute=False`` where every process sees all volumes.

    Raises:
        UsageError: No class, names that repeat, a group with unknown labels, or a tolerance that is not positive.

    Example:
        >>> metrics = VolumeMetrics(["brain"], distances=False)
        >>> truth = torch.zeros(2, 4, 4, dtype=torch.uint8)
        >>> truth[0] = 1
        >>> metrics.update(torch.ones_like(truth), truth, spacing=(1, 1, 1), site="A", case="1")
        >>> round(float(metrics.compute()["dice"]), 4)
        0.6667
    """

    is_differentiable = False
    full_state_update = False

    rows: list[Tensor] | Tensor
    sites: list[Tensor] | Tensor
    cases: list[Tensor] | Tensor

    def __init__(
        self,
        class_names: Sequence[str],
        groups: Mapping[str, Sequence[int]] | None = None,
        distances: bool = True,
        tolerance: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        groups = groups or {}
        names = [*class_names, *groups]
        if not class_names or len(set(names)) != len(names):
            raise UsageError(f"class_names and groups must be distinct names, at least one class, got {names}")
        for name, labels in groups.items():
            if not labels or not set(labels) <= set(range(1, len(class_names) + 1)):
                raise UsageError(f"groups.{name} must list labels of 1..{len(class_names)}, got {list(labels)}")
        if not tolerance > 0:
            raise UsageError(f"tolerance must be positive, got {tolerance}")
        self.class_names = list(class_names)
        self.masks = {name: [i + 1] for i, name in enumerate(class_names)} | {k: list(v) for k, v in groups.items()}
        self.distances = distances
        self.tolerance = tolerance
        for state in ("rows", "sites", "cases"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, spacing: Sequence[float], site: str, case: str) -> None:
        """Add a volume.

        Args:
            prediction: ``(Z, H, W)`` integer labels.
            target: ``(Z, H, W)`` integer labels; voxels of 255 count nowhere.
            spacing: Size of a voxel along each of the three axes in mm.
            site: The hospital or client.
            case: Name of the volume.

        Raises:
            UsageError: Shapes differ, a label is outside ``0 .. C``, the spacing is not three positive lengths, or a
                name is empty or too long.
        """
        if target.ndim != 3 or prediction.shape != target.shape:
            raise UsageError(
                "prediction and target must be volumes of one shape (slices, height, width), "
                f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        steps = [float(step) for step in spacing]
        if len(steps) != 3 or not all(np.isfinite(step) and step > 0 for step in steps):
            raise UsageError(f"spacing must be three positive lengths in mm, got {steps}")
        classes = len(self.class_names) + 1
        counted = target != IGNORED
        prediction, target = torch.where(counted, prediction, 0), torch.where(counted, target, 0)
        check_labels(prediction, classes)
        check_labels(target, classes)
        pairs = torch.bincount((target.long() * classes + prediction.long()).flatten(), minlength=classes**2)
        confusion = pairs.view(classes, classes).cpu().numpy()
        p, g = prediction.cpu().numpy(), target.cpu().numpy()
        row = torch.full((len(self.masks), len(SCORES) + 1), torch.nan, dtype=torch.float64)
        for i, labels in enumerate(self.masks.values()):
            predicted, true = int(confusion[:, labels].sum()), int(confusion[labels].sum())
            row[i, 0] = dice_score(predicted, true, int(confusion[np.ix_(labels, labels)].sum()))
            row[i, 3] = (predicted == 0) + (true == 0)
            if self.distances and predicted and true:
                both = surface_distances(np.isin(p, labels), np.isin(g, labels), steps)
                row[i, 1], row[i, 2] = hausdorff_95(*both), surface_dice(*both, self.tolerance)
        for state, value in ((self.rows, row), (self.sites, _encoded(site)), (self.cases, _encoded(case))):
            assert isinstance(state, list)  # they are tensors only while states of ranks are merged
            state.append(value[None].to(self.device))

    def _table(self) -> tuple[list[str], list[str], np.ndarray]:
        """Sites, cases and ``(volumes, masks, dice | hd95 | surface_dice | empty masks)``, by site and case."""
        if len(self.rows) == 0:
            raise UsageError("an evaluation needs at least one volume, got none")
        parts = [torch.cat(x) if isinstance(x, list) else x for x in (self.rows, self.sites, self.cases)]
        rows, sites, cases = parts[0].cpu().numpy(), *([_decoded(row) for row in part.cpu()] for part in parts[1:])
        # Sorted, so that sums do not depend on which process saw which volume.
        order = sorted(range(len(sites)), key=lambda i: (sites[i], cases[i]))
        return [sites[i] for i in order], [cases[i] for i in order], rows[order]

    def compute(self) -> dict[str, Tensor]:
        """All scores, each a float64 scalar.

        Returns:
            For ``S`` of ``dice``, ``hd95`` (mm) and ``surface_dice``: ``S`` and ``S_pooled``, the same per mask
            (``S/class_NAME``, ``S_pooled/class_NAME``), per site (``S/site_SITE``) and for each pair
            (``S/site_SITE/class_NAME``). Per mask ``both_empty/class_NAME`` and ``one_empty/class_NAME``, numbers of
            volumes; and ``volumes``.

        Raises:
            UsageError: No volume was seen.
        """
        sites, _, rows = self._table()
        foreground = slice(0, len(self.class_names))
        values: dict[str, float] = {}
        for i, score in enumerate(SCORES if self.distances else SCORES[:1]):
            pooled = _mean(rows[:, :, i], 0)
            per_site = {site: _mean(rows[np.array(sites) == site, :, i], 0) for site in dict.fromkeys(sites)}
            values[score] = float(_mean(np.array([_mean(v[foreground], 0) for v in per_site.values()]), 0))
            values[f"{score}_pooled"] = float(_mean(pooled[foreground], 0))
            across = _mean(np.stack(list(per_site.values())), 0)
            for j, name in enumerate(self.masks):
                values[f"{score}/class_{name}"] = across[j]
                values[f"{score}_pooled/class_{name}"] = pooled[j]
            for site, means in per_site.items():
                values[f"{score}/site_{site}"] = float(_mean(means[foreground], 0))
                values |= {f"{score}/site_{site}/class_{name}": means[j] for j, name in enumerate(self.masks)}
        for j, name in enumerate(self.masks):
            values[f"both_empty/class_{name}"] = (rows[:, j, 3] == 2).sum()
            values[f"one_empty/class_{name}"] = (rows[:, j, 3] == 1).sum()
        values["volumes"] = len(rows)
        return {
            name: torch.tensor(float(value), dtype=torch.float64, device=self.device) for name, value in values.items()
        }

    def volumes(self) -> list[dict[str, str | float]]:
        """One record per volume and mask: ``site``, ``case``, ``class`` and the scores; NaN where undefined."""
        sites, cases, rows = self._table()
        return [
            {"site": site, "case": case, "class": name, **dict(zip(SCORES, row[j, :3].tolist(), strict=True))}
            for site, case, row in zip(sites, cases, rows, strict=True)
            for j, name in enumerate(self.masks)
        ]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis)
    sums = np.where(defined, values, 0).sum(axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
