"""Random coordinates, the same for every client and for every run with the same seed."""

import numpy as np
import torch
from torch import Tensor

from fedseca.blocks import BLOCK, slices
from shared.federated.seeds import derived_seed


def subsample(updates: Tensor, size: int, seed: int, *place: int) -> Tensor:
    """The same ``size`` distinct coordinates of every row, all of them if there are no more.

    Args:
        updates: ``(K, d)``; read only.
        size: How many.
        seed: Of the rule.
        place: The round, and what else tells this draw from others.

    Returns:
        ``(K, min(size, d))``.

    Example:
        >>> subsample(torch.arange(10.0).repeat(2, 1), 3, 0, 7).shape
        torch.Size([2, 3])
    """
    d = updates.shape[1]
    if size >= d:
        return updates
    generator = np.random.default_rng(derived_seed(seed, "coordinates", *place))
    positions = torch.from_numpy(np.sort(generator.choice(d, size, replace=False, shuffle=False)))
    if updates.is_cuda:
        return updates.index_select(1, positions.to(updates.device))
    out = updates.new_empty(len(updates), size)
    for columns in slices(size, BLOCK):
        for row, target in zip(updates, out, strict=True):
            torch.index_select(row, 0, positions[columns], out=target[columns])
    return out
