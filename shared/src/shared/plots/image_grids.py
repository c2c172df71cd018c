"""Images in rows and columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import UsageError
from shared.plots.style import WIDTH, require, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def gallery(
    images: Sequence[ArrayLike], titles: Sequence[str] | None = None, *, columns: int = 6, title: str = ""
) -> "Figure":
    """A grid of images, row by row.

    Args:
        images: Each ``H x W`` or ``H x W x 3``, uint8 or floating point in [0, 1]; grey ones are drawn on that scale
            too, so that brightness can be compared between images.
        titles: One short line above each image.
        columns: Images per row.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    require(images, "gallery", "images")
    if titles is not None and len(titles) != len(images):
        raise UsageError(f"gallery needs one title per image ({len(images)}), got {len(titles)}")
    pictures = [_picture(image) for image in images]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    side = WIDTH / max(columns, 4)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure = Figure(
        figsize=(side * columns, rows * (side * ratio + 0.18 * bool(titles)) + 0.3 * bool(title)),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0),
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for index, picture in enumerate(pictures):
        grid[index].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if titles is not None:
            grid[index].set_title(titles[index], fontsize=8, fontweight="normal", loc="center", pad=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    return figure


def _picture(image: ArrayLike) -> NDArray[np.float64]:
    """An image as floating point in [0, 1]."""
    array = np.asarray(image)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise UsageError(f"gallery: an image must be height x width or height x width x 3, got shape {array.shape}")
    if array.dtype == np.uint8:
        return array / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"gallery: an image must be uint8 or floating point in [0, 1], got {array.dtype}")
    return array.clip(0, 1).astype(np.float64)
