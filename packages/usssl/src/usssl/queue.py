"""MoCo's queue of keys."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import UsageError

Wrap = Literal["reference", "ring"]


class KeyQueue(nn.Module):
    """The last ``K`` keys, oldest overwritten first; part of every checkpoint.

    It starts with random unit vectors. Where a batch reaches the end, ``reference`` writes what fits before it, drops
    the rest of the batch and goes back to the start; ``ring`` writes the rest at the start, so no key is lost.

    Args:
        size: Number of keys, ``K``.
        width: Width of a key, ``D``.
        wrap: What happens at the end.

    Attributes:
        keys: ``(K, D)`` unit vectors.
        pointer: Where the next key goes.

    Raises:
        UsageError: ``size`` is less than 1, or ``wrap`` is unknown.

    Example:
        >>> queue = KeyQueue(32, 4)
        >>> positions = []
        >>> for _ in range(5):
        ...     queue.enqueue(torch.ones(12, 4))
        ...     positions.append(int(queue.pointer))
        >>> positions
        [12, 24, 0, 12, 24]
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int = 4096, width: int = 128, wrap: Wrap = "reference") -> None:
        super().__init__()
        if size < 1:
            raise UsageError(f"queue_size must be at least 1, got {size}")
        if wrap not in ("reference", "ring"):
            raise UsageError(f"wrap must be reference or ring, got {wrap!r}")
        self.wrap = wrap
        self.register_buffer("keys", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put ``(B, D)`` unit vectors in. Not between a loss of :attr:`keys` and its gradient, which reads them."""
        size, start = len(self.keys), int(self.pointer)
        keys = keys.to(self.keys.dtype)
        if start + len(keys) < size:
            self.keys[start : start + len(keys)] = keys
            self.pointer.fill_(start + len(keys))
        elif self.wrap == "reference":
            self.keys[start:] = keys[: size - start]
            self.pointer.zero_()
        else:
            kept = keys[-size:]  # of a batch longer than the queue the first keys are overwritten at once
            places = (start + len(keys) - len(kept) + torch.arange(len(kept), device=keys.device)) % size
            self.keys[places] = kept
            self.pointer.fill_((start + len(keys)) % size)
