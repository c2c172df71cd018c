"""From overlapping windows of slices back to a volume."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from shared.errors import UsageError


def check_slices(slices: int) -> None:
    """Refuse windows without a middle slice.

    Raises:
        UsageError: ``slices`` is even or less than 1.
    """
    if slices < 1 or slices % 2 == 0:
        raise UsageError(f"slices must be odd and at least 1, got {slices}")


def padded_slices(depth: int, slices: int = 5) -> Tensor:
    """Which slice stands at each place of a volume whose first and last slices are repeated ``slices // 2`` times.

    Window ``w`` of ``depth`` windows holds places ``w .. w + slices - 1``, so its middle is slice ``w``.

    Example:
        >>> padded_slices(3).tolist()
        [0, 0, 0, 1, 2, 2, 2]
    """
    check_slices(slices)
    return torch.arange(-(slices // 2), depth + slices // 2).clamp(0, depth - 1)


def fuse_windows(windows: Iterable[Tensor], slices: int = 5) -> Iterator[Tensor]:
    """Mean prediction of every slice over all windows that hold it, in a stream.

    Each window's predictions are added to the places of its slices, sums are divided by how many windows a place had,
    and the padding at both ends is dropped. Memory is that of ``slices`` predictions. A place's windows are added in
    ascending order, so how they are grouped into batches changes no bit. (The reference divides by one more than the
    count, which scales all classes alike.)

    Source: the MA-SAM and FLAP-SAM reference code (test.py).

    Args:
        windows: Batches ``(W, slices, ...)`` of successive windows, ``Z`` in all.
        slices: Slices per window, odd.

    Yields:
        ``Z`` tensors ``(...)``, slice by slice.

    Example:
        >>> one_hot = torch.eye(3).expand(4, 3, 3)  # each window says 0 below, 1 in the middle, 2 above
        >>> [mean.tolist() for mean in fuse_windows([one_hot], slices=3)][1]
        [0.3333333432674408, 0.3333333432674408, 0.3333333432674408]
    """
    check_slices(slices)
    half = slices // 2
    sums: Tensor | None = None
    place = 0
    for batch in windows:
        for window in batch:
            before = torch.zeros_like(window) if sums is None else sums
            sums = torch.cat([before[1:], torch.zeros_like(before[:1])]).add_(window)
            if place >= half:
                yield sums[0] / min(place + 1, slices)
            place += 1
    depth = place
    for place in range(max(depth, half), depth + half):
        assert sums is not None
        first = place - slices + 1  # the first window that could hold this place
        yield sums[place - depth + 1] / (depth - max(first, 0))
