"""Computation in full precision, inside autocast as outside."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """A block in which autocast is off."""
    return torch.autocast(device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()
