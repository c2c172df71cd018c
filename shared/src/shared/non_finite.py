"""Batches whose loss or gradient is no number."""

from collections.abc import Iterable

import torch
from torch import Tensor

from shared.errors import RunError, UsageError


class NonFiniteGuard:
    """Counts batches that were skipped, and stops a training in which too many follow one another.

    Args:
        limit: So many in a row end the training.

    Attributes:
        in_a_row: Skipped since the last good batch.
        skipped: Skipped altogether.

    Raises:
        UsageError: ``limit`` is less than 1.
    """

    def __init__(self, limit: int = 10) -> None:
        if limit < 1:
            raise UsageError(f"max_non_finite must be at least 1, got {limit}")
        self.limit = limit
        self.in_a_row = 0
        self.skipped = 0

    def passed(self) -> None:
        """A good batch."""
        self.in_a_row = 0

    def skip(self, what: str, epoch: int, batch: int, lr: float, precision: str) -> None:
        """A skipped batch.

        Raises:
            RunError: One too many.
        """
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row >= self.limit:
            raise RunError(
                f"the {what} was not finite in {self.in_a_row} batches in a row, the last of them batch {batch} of "
                f"epoch {epoch} (learning rate {lr:.3g}, precision {precision}); try a lower learning rate, a longer "
                "warm-up or precision 32"
            )

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def restore(self, state: dict[str, int]) -> None:
        """From a checkpoint."""
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; a norm that overflows counts as infinite."""
    given = list(tensors)
    if not given:
        return True
    return bool(torch.stack(torch._foreach_norm(given)).isfinite().all())
