"""Slices with the outlines of masks drawn into them."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from scipy import ndimage

COLOURS = {
    "red": (0.95, 0.35, 0.25),
    "blue": (0.25, 0.65, 0.95),
    "yellow": (0.95, 0.80, 0.20),
    "green": (0.45, 0.85, 0.45),
}
"""Of the predicted classes, in turn; the true outline is white."""


def legend(class_names: Sequence[str]) -> str:
    """Which foreground class has which colour.

    Example:
        >>> legend(["kidney", "tumour"])
        'kidney red, tumour blue'
    """
    return ", ".join(f"{name} {colour}" for name, colour in zip(class_names, cycle(COLOURS), strict=False))


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch its outside, ``(H, W)`` bool.

    Example:
        >>> outline(np.pad(np.ones((3, 3), bool), 1)).sum()
        np.int64(8)
    """
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def overlay(image: np.ndarray, predicted: np.ndarray, true: np.ndarray | None = None, least: int = 256) -> np.ndarray:
    """A slice in grey with its predicted classes tinted and outlined, and the true outlines in white.

    Args:
        image: ``(H, W)``, drawn between its own least and greatest value.
        predicted: ``(H, W)`` classes.
        true: ``(H, W)`` classes, if known.
        least: The picture is enlarged by a whole factor until its longer side has so many pixels, so that outlines
            are thin.

    Returns:
        ``(h, w, 3)`` in [0, 1].
    """
    factor = max(1, -(-least // max(image.shape)))
    grey, classes = (np.kron(x, np.ones((factor, factor), x.dtype)) for x in (image.astype(np.float64), predicted))
    low, high = grey.min(), grey.max()
    picture = np.repeat(((grey - low) / (high - low if high > low else 1.0))[..., None], 3, axis=2)
    tints = list(COLOURS.values())
    for number in range(1, int(classes.max(initial=0)) + 1):
        colour, mask = np.array(tints[(number - 1) % len(tints)]), classes == number
        picture[mask] = 0.75 * picture[mask] + 0.25 * colour
        picture[outline(mask)] = colour
    if true is not None:
        truth = np.kron(true, np.ones((factor, factor), true.dtype))
        for number in range(1, int(truth.max(initial=0)) + 1):
            picture[outline(truth == number)] = 1.0
    return picture


def telling_slices(classes: Sequence[np.ndarray], count: int) -> list[int]:
    """Slices that show most of a segmentation: ``count`` of those with foreground, spread evenly; else of all.

    Args:
        classes: Volumes ``(Z, H, W)`` of one shape whose foreground counts, prediction and truth say.
        count: How many slices.
    """
    present = np.flatnonzero(np.any([volume.reshape(len(volume), -1).any(1) for volume in classes], axis=0))
    places = present if len(present) else np.arange(len(classes[0]))
    chosen = np.linspace(0, len(places) - 1, count + 2)[1:-1].round().astype(int)
    return [int(places[i]) for i in dict.fromkeys(chosen)]
