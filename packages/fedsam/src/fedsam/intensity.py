"""Normalisation of whole volumes; windows are scaled to [0, 1] once more when they are cut."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HounsfieldWindow:
    """Clip to ``[low, high]``, subtract ``mean``, divide by ``std``: how nnU-Net normalises CT.

    Attributes:
        low: HU.
        high: HU.
        mean: HU.
        std: HU.
    """

    low: float
    high: float
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A normalised copy, float32."""
        return ((np.clip(image, self.low, self.high) - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class Percentiles:
    """Clip to two percentiles of the volume's own values and scale the range to [0, 1]; a constant becomes zeros.

    Attributes:
        low: Percentile, 0 clips nothing below.
        high: Percentile, 100 clips nothing above.
    """

    low: float = 1.0
    high: float = 99.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A normalised copy, float32."""
        bottom, top = np.percentile(image, [self.low, self.high])
        span = top - bottom
        if span <= 0:
            return np.zeros(image.shape, np.float32)
        return ((np.clip(image, bottom, top) - bottom) / span).astype(np.float32)


@dataclass(frozen=True)
class Unchanged:
    """The stored values as float32."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A float32 copy."""
        return image.astype(np.float32)


Normalisation = HounsfieldWindow | Percentiles | Unchanged
