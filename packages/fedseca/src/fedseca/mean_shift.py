"""Mean shift with a flat kernel, for a handful of points: clusters whose number is not known beforehand."""

import torch
from torch import Tensor

# A point has arrived when it moves by less than this share of the bandwidth.
ARRIVED = 1e-3
MOST_STEPS = 300
# Points no further apart than this are the same but for rounding.
SAME = 1e-12


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """Plain differences: the detour over products would put equal points at a distance from each other."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def neighbour_bandwidth(points: Tensor, quantile: float) -> float:
    """Mean distance of the points from the furthest of their nearest ``quantile * n``, themselves included.

    Args:
        points: ``(n, m)``.
        quantile: Share of the points that count as near.

    Example:
        >>> neighbour_bandwidth(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), quantile=0.5)
        2.75
    """
    near = max(int(quantile * len(points)), 1)
    return float(_distances(points, points).sort(1).values[:, near - 1].mean())


def mean_shift(points: Tensor, bandwidth: float) -> list[int]:
    """Move every point to the mean of the points within ``bandwidth`` until it rests; who rests together is a cluster.

    Resting places closer than the bandwidth count as one, that with most points around it, and every point belongs to
    the nearest that is left.

    Source: Comaniciu, Meer, "Mean Shift: A Robust Approach Toward Feature Space Analysis", IEEE TPAMI 2002.

    Args:
        points: ``(n, m)``.
        bandwidth: Radius of the kernel; 0 puts only equal points together.

    Returns:
        The cluster of each point, numbered from the one with most points around its resting place.

    Example:
        >>> mean_shift(torch.tensor([[0.0], [0.1], [5.0], [0.2], [5.1]]), bandwidth=1.0)
        [0, 0, 1, 0, 1]
    """
    points, bandwidth = points.double(), max(bandwidth, SAME)
    rest = points.clone()
    for _ in range(MOST_STEPS):
        near = (_distances(rest, points) <= bandwidth).double()
        moved = near @ points / near.sum(1, keepdim=True)
        far = (moved - rest).norm(dim=1).max() > ARRIVED * bandwidth
        rest = moved
        if not far:
            break
    around = (_distances(rest, points) <= bandwidth).sum(1)
    centres: list[Tensor] = []
    for i in around.argsort(descending=True, stable=True).tolist():
        if all((rest[i] - centre).norm() > bandwidth for centre in centres):
            centres.append(rest[i])
    nearest: list[int] = _distances(points, torch.stack(centres)).argmin(1).tolist()
    return nearest
