"""Sets of unequal numbers of tokens."""

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def joined(sets: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sets of several batches in one tensor, and their masks; padding goes before, for the global token stays last.

    Example:
        >>> import torch
        >>> sets, masks = joined(
        ...     [torch.ones(1, 2, 1), torch.ones(1, 3, 1)], [torch.ones(1, n, dtype=torch.bool) for n in (2, 3)]
        ... )
        >>> masks.tolist()
        [[False, True, True], [True, True, True]]
    """
    rows = [row.flip(0) for group in sets for row in group]
    marks = [row.flip(0) for group in masks for row in group]
    return (
        pad_sequence(rows, batch_first=True).flip(1),
        pad_sequence(marks, batch_first=True).flip(1),
    )
