"""The reference's augmentation, one window at a time, with numpy, scipy and 8-bit PIL pictures."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import rotate, zoom

from fedsam.augmentation.policy import (
    ERASED_AREA,
    ERASED_RATIO,
    GEOMETRIC,
    LEAST_ANGLE,
    MOST_ANGLE,
    OPERATIONS,
    Policy,
)
from shared.errors import UsageError

ERASING_ATTEMPTS = 100


def reference_choices() -> np.random.Generator:
    """The reference's private generator of erasing and operations: seed 42 in every worker.

    Workers that each begin with a copy of it repeat each other's draws. For comparison with the reference only.
    """
    return np.random.default_rng(42)


def rot_flip(image: np.ndarray, label: np.ndarray, quarters: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn ``(n, H, W)`` by quarters, counter-clockwise, then flip along rows (``axis`` 0) or columns (1)."""
    turned = (np.flip(np.rot90(x, quarters, axes=(1, 2)), axis=axis + 1) for x in (image, label))
    first, second = turned
    return first.copy(), second.copy()


def rotated(image: np.ndarray, label: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotate ``(n, H, W)`` about the centre, nearest neighbours for both, 0 outside."""
    first, second = (rotate(x, degrees, axes=(1, 2), order=0, reshape=False) for x in (image, label))
    return first, second


def gamma_corrected(image: np.ndarray, gamma: float) -> np.ndarray:
    """``x ** gamma`` by a look-up table of 256 values."""
    table = ((np.arange(256) / 255) ** gamma * 255).astype(np.uint8)
    return table[to_bytes(image)].astype(np.float32) / 255


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] to 0 .. 255, cut off as the reference does; values outside are clipped first."""
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def drawn_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of a box to erase; ``None`` if none of 100 draws fits."""
    for _ in range(ERASING_ATTEMPTS):
        area = rng.uniform(*ERASED_AREA) * height * width
        ratio = rng.uniform(*ERASED_RATIO)
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < h < height and 0 < w < width:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return None


def erased(
    image: np.ndarray, label: np.ndarray, box: tuple[int, int, int, int], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the box of all slices with the ``(h, w)`` noise, and its labels with 0."""
    top, left, h, w = box
    image, label = image.copy(), label.copy()
    image[:, top : top + h, left : left + w] = noise
    label[:, top : top + h, left : left + w] = 0
    return image, label


def affine_coefficients(name: str, value: float, width: int, height: int) -> tuple[float, ...]:
    """PIL's ``(a, b, c, d, e, f)``: the output at ``(x, y)`` is the input at ``(ax + by + c, dx + ey + f)``.

    Shears leave the centre where it is, scale leaves the corner at the origin.
    """
    return {
        "shear_x": (1, value, -value * height / 2, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, -value * width / 2),
        "scale": (value, 0, 0, 0, value, 0),
        "translate_x": (1, 0, value * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * height),
    }[name]


def operated(
    images: list[Image.Image], labels: list[Image.Image], name: str, value: float
) -> tuple[list[Image.Image], list[Image.Image]]:
    """One of the ten operations on the 8-bit slices; bilinear for images, nearest for labels."""
    if name in GEOMETRIC:
        size = images[0].size
        data = affine_coefficients(name, value, *size)
        affine = Image.Transform.AFFINE
        return (
            [x.transform(size, affine, data, resample=Image.Resampling.BILINEAR) for x in images],
            [x.transform(size, affine, data, resample=Image.Resampling.NEAREST) for x in labels],
        )
    enhancers: dict[str, Callable[[Image.Image], Image.Image]] = {
        "posterize": lambda x: ImageOps.posterize(x, int(value)),
        "contrast": lambda x: ImageEnhance.Contrast(x).enhance(value),
        "brightness": lambda x: ImageEnhance.Brightness(x).enhance(value),
        "sharpness": lambda x: ImageEnhance.Sharpness(x).enhance(value),
        "identity": lambda x: x,
    }
    return [enhancers[name](x) for x in images], labels


class SampleAugmentation:
    """The reference's steps in its order: quarter turns and flips, rotation, gamma, erasing, operations, size.

    The slices of a window share every draw. Labels stay what they are, whole numbers of 0 .. 255.

    Source: the FLAP-SAM reference code (datasets/dataset.py), after MA-SAM.

    Args:
        size: Side of the result; images by a spline of order 3 (which may leave [0, 1]), labels by nearest neighbours.
            ``None`` leaves the size as it is.
        policy: How often each step is taken.

    Raises:
        UsageError: ``size`` is less than 1.
    """

    def __init__(self, size: int | None = None, policy: Policy | None = None) -> None:
        if size is not None and size < 1:
            raise UsageError(f"augmentation.size must be at least 1, got {size}")
        self.size = size
        self.policy = policy or Policy()

    def __call__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        rng: np.random.Generator,
        choices: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one window.

        Args:
            image: ``(n, H, W)`` float in [0, 1].
            label: ``(n, H, W)`` uint8.
            rng: Of this sample; the first three steps draw from it.
            choices: What erasing and the operations draw from; by default ``rng`` too. :func:`reference_choices` is
                the reference's.

        Returns:
            ``(n, S, S)`` float32 and uint8.
        """
        policy, choices = self.policy, choices or rng
        image = image.astype(np.float32)
        if rng.random() < policy.rot_flip:
            image, label = rot_flip(image, label, int(rng.integers(4)), int(rng.integers(2)))
        if rng.random() < policy.rotate:
            image, label = rotated(image, label, int(rng.integers(LEAST_ANGLE, MOST_ANGLE + 1)))
        if rng.random() < policy.gamma:
            image = gamma_corrected(image, 3 * rng.random() + 0.5)
        if choices.random() < policy.erase and (box := drawn_box(image.shape[1], image.shape[2], choices)) is not None:
            image, label = erased(image, label, box, choices.random(box[2:]))
        if policy.operations:
            images = [Image.fromarray(x) for x in to_bytes(image)]
            labels = [Image.fromarray(x) for x in label]
            for name in choices.choice(list(OPERATIONS), policy.operations, replace=False):
                images, labels = operated(images, labels, str(name), choices.uniform(*OPERATIONS[str(name)]))
            image = np.stack([np.asarray(x, dtype=np.float32) for x in images]) / 255
            label = np.stack([np.asarray(x) for x in labels])
        if self.size is not None and image.shape[1:] != (self.size, self.size):
            factors = (1, self.size / image.shape[1], self.size / image.shape[2])
            image = np.stack([zoom(x, factors[1:], order=3, mode="mirror") for x in image])
            label = zoom(label, factors, order=0, mode="nearest")
        return image, label
