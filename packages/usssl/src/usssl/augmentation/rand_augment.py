"""torchvision's RandAugment for batches: every item draws its own operations, items with the same one run together."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from shared.errors import UsageError

BINS = 31
OPERATIONS = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
_SIGNED = frozenset(OPERATIONS[1:10])


def strength(name: str, magnitude: int, height: int, width: int) -> float:
    """What bin ``magnitude`` of 0 .. 30 means for an operation: torchvision's table.

    Raises:
        UsageError: There is no such bin.
    """
    if not 0 <= magnitude < BINS:
        raise UsageError(f"the magnitude of RandAugment must lie in 0..{BINS - 1}, got {magnitude}")
    share = magnitude / (BINS - 1)
    if name.startswith("Shear"):
        return 0.3 * share
    if name.startswith("Translate"):
        return 150 / 331 * (width if name.endswith("X") else height) * share
    if name == "Rotate":
        return 30 * share
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 0.9 * share
    if name == "Posterize":
        return 8 - round(magnitude / ((BINS - 1) / 4))
    return 1 - share if name == "Solarize" else 0.0


def apply(name: str, images: Tensor, amount: float) -> Tensor:
    """One operation on ``(B, 1 or 3, H, W)`` uint8."""
    affine: Callable[..., Tensor] = lambda shift, shear: F.affine(  # noqa: E731
        images, 0.0, shift, 1.0, shear, InterpolationMode.NEAREST, [0.0], [0, 0] if any(shear) else None
    )
    operations: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: images,
        "ShearX": lambda: affine([0, 0], [math.degrees(math.atan(amount)), 0.0]),
        "ShearY": lambda: affine([0, 0], [0.0, math.degrees(math.atan(amount))]),
        "TranslateX": lambda: affine([int(amount), 0], [0.0, 0.0]),
        "TranslateY": lambda: affine([0, int(amount)], [0.0, 0.0]),
        "Rotate": lambda: F.rotate(images, amount, InterpolationMode.NEAREST, fill=[0.0]),
        "Brightness": lambda: F.adjust_brightness(images, 1 + amount),
        "Color": lambda: F.adjust_saturation(images, 1 + amount) if images.shape[1] == 3 else images,
        "Contrast": lambda: F.adjust_contrast(images, 1 + amount),
        "Sharpness": lambda: F.adjust_sharpness(images, 1 + amount),
        "Posterize": lambda: F.posterize(images, int(amount)),
        "Solarize": lambda: F.solarize(images, 255 * amount),
        "AutoContrast": lambda: F.autocontrast(images),
        "Equalize": lambda: F.equalize(images),
    }
    return operations[name]()


def rand_augmented(images: Tensor, operations: int, magnitude: int, uniforms: Tensor) -> Tensor:
    """Several operations in turn, drawn evenly with replacement for every item; signs by a coin.

    Args:
        images: ``(B, 1 or 3, H, W)`` uint8.
        operations: How many.
        magnitude: Their common bin.
        uniforms: ``(B, at least 2 operations)`` in [0, 1).

    Returns:
        ``(B, 1 or 3, H, W)`` uint8, a new tensor.
    """
    images = images.clone()
    for slot in range(operations):
        kind = (uniforms[:, 2 * slot] * len(OPERATIONS)).long()
        negative = uniforms[:, 2 * slot + 1] < 0.5
        for number, name in enumerate(OPERATIONS):
            amount = strength(name, magnitude, *images.shape[-2:])
            for sign in (False, True) if name in _SIGNED else (None,):
                mask = kind == number if sign is None else (kind == number) & (negative == sign)
                rows = torch.nonzero(mask)[:, 0].to(images.device)
                if len(rows) and name != "Identity":
                    images[rows] = apply(name, images[rows], -amount if sign else amount)
    return images
