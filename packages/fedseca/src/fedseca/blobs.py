"""Synthetic images that look like nothing: a smooth field per class, and noise."""

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.data.sources import ImageSets, Source
from shared.errors import UsageError

_RANGE = 4.0  # standard deviations from black to middle grey


def smoothed(white: np.ndarray, length: float) -> np.ndarray:
    r"""White noise made smooth along its last two axes, periodic, with standard deviation 1 as before.

    Its correlation at distance r is :math:`e^{-r^2 / 2 \ell^2}`: the noise is convolved with a Gaussian of standard
    deviation :math:`\ell / \sqrt2`, by a product of Fourier transforms.

    Args:
        white: ``(..., H, W)`` independent standard normal numbers; read only.
        length: :math:`\ell` in pixels.

    Returns:
        ``(..., H, W)`` float64.

    Example:
        >>> field = smoothed(np.random.default_rng(0).standard_normal((256, 256)), 4.0)
        >>> print(f"{field.std():.1f} {np.mean(field[4:] * field[:-4]):.1f}")  # exp(-1/2) at a distance of 4
        1.0 0.6
    """
    height, width = white.shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    response = np.exp(-((np.pi * length * frequency) ** 2))
    return np.fft.ifft2(np.fft.fft2(white) * (response / np.sqrt(np.mean(response**2)))).real


class Blobs(Source):
    """A smooth field per class (correlation 8 pixels) plus noise (2 pixels), both of standard deviation 1.

    For timing and for tests of properties: there is something to learn, and nothing to look at. Picture ``i`` of a set
    is the same for every size of the set, and classes take turns.

    Args:
        train: Training images.
        test: Test images.
        classes: Number of classes.
        size: Height and width.
        channels: 1 or 3.
        seed: Of everything.
    """

    class_names: tuple[str, ...]

    def __init__(
        self, train: int = 3000, test: int = 1000, classes: int = 10, size: int = 32, channels: int = 3, seed: int = 0
    ) -> None:
        for option, value, least in (
            ("train", train, 1),
            ("test", test, 1),
            ("classes", classes, 2),
            ("size", size, 4),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UsageError(f"data.source.{option} must be at least {least}, got {value}")
        if channels not in (1, 3):
            raise UsageError(f"data.source.channels must be 1 or 3, got {channels}")
        self.items = {"train": train, "test": test}
        self.class_names = tuple(f"blob {label}" for label in range(classes))
        self.stored_channels = channels
        self.shape = (channels, size, size)
        self.seed = seed

    def load(self) -> ImageSets:
        means = smoothed(np.stack([self._normal(0, label) for label in range(len(self.class_names))]), 8.0)
        return ImageSets(**{part: self._labelled(part, key, means) for key, part in enumerate(self.items, start=1)})

    def _labelled(self, part: str, key: int, means: np.ndarray) -> LabelledImages:
        labels = np.arange(self.items[part]) % len(self.class_names)
        fields = means[labels]
        for item, field in enumerate(fields):
            field += smoothed(self._normal(key, item), 2.0)
        pixels = np.clip(np.rint(127.5 * (1 + fields / _RANGE)), 0, 255).astype(np.uint8)
        images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        return LabelledImages(images, labels, self.class_names, name=f"blobs {part}", provenance="synthetic")

    def _normal(self, *path: int) -> np.ndarray:
        return np.random.default_rng(np.random.SeedSequence([self.seed, *path])).standard_normal(self.shape)
