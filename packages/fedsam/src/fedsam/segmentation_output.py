"""What ``fedsam predict`` writes for a volume: its classes on the scan's own grid, and a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedsam.overlays import legend, overlay, telling_slices
from fedsam.readers.nifti import write_nifti
from fedsam.volumes import Volume
from shared.metrics.volume import dice_score
from shared.plots import gallery, save

PICTURES = 6


def write_segmentation(folder: Path, volume: Volume, predicted: np.ndarray, class_names: Sequence[str]) -> str:
    """Write ``CASE.nii.gz`` and ``CASE.png``.

    Args:
        folder: Where to; made if absent.
        volume: The scan.
        predicted: ``(Z, H, W)`` uint8 classes.
        class_names: Background and the foreground classes.

    Returns:
        A line for the user: the file, each class's volume in millilitres, and its Dice where the scan has a mask.
    """
    name = volume.case if volume.site in ("scans", "") else f"{volume.site}_{volume.case}"
    path = write_nifti(folder / f"{name}.nii.gz", predicted, volume)
    colours = legend(class_names[1:]) + (", truth white" if volume.label is not None else "")
    save(picture(volume, predicted, f"{volume.case}: {colours}"), folder / f"{name}.png")
    voxel = float(np.prod(volume.spacing)) / 1000
    told = []
    for number, label in enumerate(class_names[1:], start=1):
        mask = predicted == number
        words = f"{label} {mask.sum() * voxel:,.1f} ml"
        if volume.label is not None:
            true = volume.label == number
            words += f" (Dice {dice_score(int(mask.sum()), int(true.sum()), int((mask & true).sum())):.3f})"
        told.append(words)
    return f"{path}: {', '.join(told)}"


def picture(volume: Volume, predicted: np.ndarray, title: str | None = None):  # type: ignore[no-untyped-def]  # matplotlib is imported late
    """Slices of a volume with predicted classes in colour and, where known, true outlines in white."""
    image, label = np.asarray(volume.image), None if volume.label is None else np.asarray(volume.label)
    places = telling_slices([predicted] if label is None else [predicted, label], PICTURES)
    pictures = [overlay(image[z], predicted[z], None if label is None else label[z]) for z in places]
    return gallery(
        pictures, [f"slice {z + 1} of {len(image)}" for z in places], columns=PICTURES, title=title or volume.case
    )
