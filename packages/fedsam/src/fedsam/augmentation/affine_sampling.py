"""Pictures and labels under affine maps: one grid for all slices of a window.

Coordinates are ``(x, y)`` with the square at [-1, 1] from edge to edge, y downwards; a matrix leads from the centre of
a pixel of the result to its source.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-6  # what lies on an edge may come out on either side of it


def centres(size: int, device: torch.device | None = None) -> Tensor:
    """``(S,)`` coordinates of the pixels' centres along one side."""
    return (torch.arange(size, device=device) * 2 + 1) / size - 1


def columns_inside(matrices: Tensor, low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and last column of each row whose pixels lie in all of some boxes when mapped.

    A row and a box meet in an interval, so ``S`` pairs of bounds say what ``S^2`` comparisons would.

    Args:
        matrices: ``(N, k, 3, 3)``, the map into each of ``k`` boxes.
        low: Broadcastable with ``(N, k, 2)``, least x and y of each box.
        high: Likewise, the greatest.
        size: Side ``S``.

    Returns:
        Two ``(N, S)`` int64; ``first > last`` where a row has none.
    """
    slope = matrices[..., :2, 0, None]
    begin = matrices[..., :2, 1, None] * centres(size, matrices.device) + matrices[..., :2, 2, None]
    # low <= begin + slope * x <= high, for x and for y. Where the slope is 0 that gives infinities of the right signs,
    # as no bound is met exactly.
    one = ((low[..., None] - ROUNDING) - begin).div_(slope)
    other = ((high[..., None] + ROUNDING) - begin).div_(slope)
    least, most = torch.minimum(one, other).amax((1, 2)), torch.maximum(one, other).amin((1, 2))
    first, last = (((side.clamp_(-2, 2) + 1) * size - 1) / 2 for side in (least, most))
    return first.ceil().long().clamp_(0, size), last.floor().long().clamp_(-1, size - 1)


def axes(matrices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where rows begin and how far columns lie from there, both ``(N, S)``, as complex numbers ``x + iy``."""
    line = centres(size, matrices.device)[:, None]
    down = matrices[:, None, :2, 1] * line + matrices[:, None, :2, 2]
    return torch.view_as_complex(down), torch.view_as_complex(matrices[:, None, :2, 0] * line)


@lru_cache(maxsize=8)
def _columns_before(size: int, device: torch.device) -> Tensor:
    """``(S + 1, S)`` bool: whether column ``j`` comes before column ``i``."""
    return torch.ones(size + 1, size, dtype=torch.bool, device=device).tril_(-1)


def traced(down: Tensor, across: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Where the pixels of results come from, ``(N, S, S, 2)``; beyond the given columns of each row, just outside.

    Args:
        down: ``(N, S)``, from :func:`axes`.
        across: Likewise.
        first: ``(N, S)`` first column of each row that comes from inside.
        last: Likewise, the last.
    """
    before = _columns_before(first.shape[1], first.device)
    beyond = before[last + 1].logical_not_().logical_or_(before[first])
    # There bilinear interpolation finds nothing, and a picture in a frame of one pixel has one.
    places = (down[:, :, None] + across[:, None]).masked_fill_(beyond, 1 + 1.5 / first.shape[1])
    return torch.view_as_real(places)


def pixels(grid: Tensor) -> Tensor:
    """``(N, S, S)`` int64: which pixel of a picture with a frame of one pixel each place of a grid falls into."""
    size = grid.shape[1]
    inside = (grid * (size / 2)).add_(size / 2 + 1).int()
    return torch.add(inside[..., 0], inside[..., 1], alpha=size + 2).long()


def nearest(pictures: Tensor, index: Tensor) -> Tensor:
    """Values ``(N, n, S, S)`` at the :func:`pixels` ``(N, S, S)``, 0 in the frame."""
    framed = F.pad(pictures, (1, 1, 1, 1)).flatten(2)
    return framed.gather(2, index.flatten(1)[:, None].expand(-1, pictures.shape[1], -1)).view_as(pictures)


def bilinear(pictures: Tensor, grid: Tensor) -> Tensor:
    """Values ``(N, n, S, S)`` at the places ``(N, S, S, 2)``, 0 outside."""
    return F.grid_sample(pictures, grid.to(pictures), mode="bilinear", align_corners=False)
