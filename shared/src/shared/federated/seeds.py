"""Randomness that depends on what it is for and not on what ran before: the key to exact resume and sharding."""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def derived_seed(seed: int, purpose: str, *path: int) -> int:
    """A 63-bit seed for one purpose at one place (round, client …), independent of every other.

    Example:
        >>> derived_seed(73, "shuffle", 4, 1) == derived_seed(73, "shuffle", 4, 1)
        True
        >>> derived_seed(73, "shuffle", 4, 1) == derived_seed(73, "shuffle", 1, 4)
        False
    """
    sequence = np.random.SeedSequence([seed, crc32(purpose.encode()), *path])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def derived_generator(seed: int, purpose: str, *path: int) -> torch.Generator:
    """A CPU generator seeded by :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *path))


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block (dropout, random augmentation) under its own global seed and restore torch's state after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class OwnRandomness:
    """A private course of torch's global randomness, entered piece by piece: what :func:`global_seed` gives in one.

    Args:
        seed: Where it starts.
        device: Its CUDA generator, if it has one, belongs to it as well.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self._states: tuple[Tensor, Tensor | None] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Go on where the last block ended; the global state is as before afterwards."""
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            if self._states is None:
                torch.manual_seed(self.seed)
            else:
                torch.set_rng_state(self._states[0])
                if self._states[1] is not None:
                    torch.cuda.set_rng_state(self._states[1], self.device)
            yield
            self._states = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if cuda else None
