"""Five neighbouring slices: the training sample, cut out of a volume when it is asked for."""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SLICES = 5
Interpolation = Literal["spline", "linear"]


def window_slices(centre: int, depth: int) -> np.ndarray:
    """``(5,)`` slices of the window around slice ``centre``; at the ends the first or last slice is repeated.

    So a volume of Z slices has Z windows. (FLAP-SAM's processed form of the data.)

    Example:
        >>> window_slices(0, 9).tolist(), window_slices(4, 9).tolist(), window_slices(8, 9).tolist()
        ([0, 0, 0, 1, 2], [2, 3, 4, 5, 6], [6, 7, 8, 8, 8])
    """
    half = SLICES // 2
    return np.clip(np.arange(centre - half, centre + half + 1), 0, depth - 1)


def min_max(stack: np.ndarray) -> np.ndarray:
    """``(x - min) / (max - min + 1e-8)`` over the whole stack, float32; a constant stack becomes zeros."""
    values = np.asarray(stack, dtype=np.float32)
    low = values.min()
    return np.asarray((values - low) / np.float32(values.max() - low + 1e-8), dtype=np.float32)


def anti_transpose(stack: np.ndarray) -> np.ndarray:
    """Mirror each slice at its other diagonal: ``out[..., i, j] = in[..., H-1-j, W-1-i]``, a view.

    The orientation of the reference's processed data (a quarter turn, then left and right exchanged).

    Example:
        >>> anti_transpose(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
        [[6, 3], [5, 2], [4, 1]]
    """
    return stack[..., ::-1, ::-1].swapaxes(-1, -2)


@lru_cache(maxsize=256)
def resize_matrix(source: int, target: int, order: int) -> Tensor:
    """``(target, source)`` float32: resampling along one axis, end points on end points, as a linear map.

    Made by resampling unit vectors with :func:`scipy.ndimage.zoom`, so that a product with it is that function.

    Args:
        source: Length before.
        target: Length after.
        order: Of the spline; 3 overshoots at edges, 1 does not.
    """
    if source == target:
        return torch.eye(source)
    columns = [ndimage.zoom(unit, target / source, order=order) for unit in np.eye(source)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


@lru_cache(maxsize=256)
def nearest_rows(source: int, target: int) -> Tensor:
    """``(target,)`` int64: which of ``source`` positions :func:`scipy.ndimage.zoom` of order 0 takes."""
    if source == target:
        return torch.arange(source)
    return torch.from_numpy(ndimage.zoom(np.arange(source), target / source, order=0).astype(np.int64))


def resize_images(images: Tensor, size: int | tuple[int, int], interpolation: Interpolation = "spline") -> Tensor:
    """Resize the last two axes to ``size``.

    ``spline`` is the cubic spline of :func:`scipy.ndimage.zoom` (order 3), which **overshoots**: values in [0, 1] come
    out a little below 0 and above 1 near edges. ``linear`` stays inside. Both are two matrix products, on any device.

    Args:
        images: ``(..., H, W)`` floating point.
        size: S, or height and width.
        interpolation: The kind of spline.

    Returns:
        ``(..., S, S)``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    order = 3 if interpolation == "spline" else 1
    rows = resize_matrix(images.shape[-2], height, order).to(images)
    columns = resize_matrix(images.shape[-1], width, order).to(images)
    return rows @ images @ columns.T


def resize_labels(labels: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize the last two axes by nearest neighbours, as :func:`scipy.ndimage.zoom` of order 0 does.

    (But for three-dimensional arrays of some sizes, as 5 x 512 x 512 to 224, scipy rounds the last row and column out
    of the array and fills them with background; here they are kept.)
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows = nearest_rows(labels.shape[-2], height).to(labels.device)
    columns = nearest_rows(labels.shape[-1], width).to(labels.device)
    return labels.index_select(-2, rows).index_select(-1, columns)
