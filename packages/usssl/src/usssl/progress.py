"""Where training is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Epoch and step (in batches) from 0, and how many there will be."""

    epoch: int
    epochs: int
    step: int
    steps: int
