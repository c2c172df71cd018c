"""Crops, flips and blurs of a batch as matrices: a picture X becomes ``R X C^T`` with one pair of matrices per item.

Resizing with antialiasing as Pillow does it, mirror images and Gaussian blurs are linear and separable, so a view's
whole geometry is two batched products. Sampling a grid instead reads four pixels for each pixel of the result however
much the crop shrinks, which turns fine speckle into noise that the PIL recipes do not have.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def _kernel(x: Tensor, kind: Filter) -> Tensor:
    x = x.abs()
    if kind == "bilinear":
        return (1 - x).clamp_(min=0)
    a = -0.5  # Pillow's and Catmull and Rom's
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def crop_matrices(start: Tensor, length: Tensor, flipped: Tensor, count: int, size: int, kind: Filter) -> Tensor:
    """Rows that resize ``length`` of ``count`` pixels from ``start`` on to ``size`` pixels, as Pillow resizes a crop.

    Args:
        start: ``(B,)`` first pixel of the crop, whole numbers.
        length: ``(B,)`` its pixels.
        flipped: ``(B,)`` bool, mirrored after resizing.
        count: Pixels of the picture.
        size: Pixels of the result.
        kind: The filter; it widens where the crop shrinks.

    Returns:
        ``(B, size, count)`` float32; rows sum to 1 and reach no pixel outside the crop.
    """
    start, length = start.double()[:, None, None], length.double()[:, None, None]
    device = start.device
    place = torch.arange(size, dtype=torch.float64, device=device)[None, :, None]
    place = torch.where(flipped[:, None, None], size - 1 - place, place)
    scale = length / size
    widened = scale.clamp(min=1)
    centre = start + (place + 0.5) * scale
    pixel = torch.arange(count, dtype=torch.float64, device=device) + 0.5
    weights = _kernel((pixel - centre) / widened, kind)
    weights *= (pixel > start) & (pixel < start + length)
    # Pillow takes whole pixels within the support, those at its very edge by their rounded ends.
    first = (centre - _SUPPORT[kind] * widened + 0.5).floor()
    last = (centre + _SUPPORT[kind] * widened + 0.5).floor()
    weights *= (pixel > first) & (pixel < last)
    return (weights / weights.sum(-1, keepdim=True)).float()


def blur_matrices(sigma: Tensor, size: int, radius: int) -> Tensor:
    """Blur as torchvision does: ``2 radius + 1`` taps of the Gaussian, pictures mirrored at their edges.

    Args:
        sigma: ``(B,)`` pixels.
        size: Pixels of a side.
        radius: Taps on either side of the middle, less than ``size``.

    Returns:
        ``(B, size, size)`` float32.
    """
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device=sigma.device)
    taps = torch.exp(-0.5 * (offset / sigma.double()[:, None]) ** 2)
    place = torch.arange(size, device=sigma.device)[:, None] + torch.arange(-radius, radius + 1, device=sigma.device)
    place = place.abs()
    place = torch.where(place >= size, 2 * (size - 1) - place, place)
    return _folded(taps / taps.sum(1, keepdim=True), place, size)


def box_blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Pillow's ``GaussianBlur``: three passes of a box whose ends count in part, edge pixels repeated.

    The box has half width ``l + a`` with ``L = sqrt(4 s^2 + 1)``, ``l = floor((L - 1) / 2)`` and the share ``a`` of the
    end pixels that keeps the variance ``s^2``.

    Args:
        sigma: ``(B,)`` pixels.
        size: Pixels of a side.

    Returns:
        ``(B, size, size)`` float32.
    """
    s2 = sigma.double() ** 2
    l = (((4 * s2 + 1).sqrt() - 1) / 2).floor()  # noqa: E741 - the formula's name
    a = (2 * l + 1) * (l * (l + 1) - s2) / (2 * (s2 - 3 * (l + 1) ** 2))
    reach = int(l.max()) + 1
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64, device=sigma.device).abs()
    full = (offset <= l[:, None]).double()
    part = (offset == l[:, None] + 1).double() * a[:, None]
    box = (full + part) / (2 * (l + a) + 1)[:, None]
    place = torch.arange(size, device=sigma.device)[:, None] + torch.arange(-reach, reach + 1, device=sigma.device)
    once = _folded(box, place.clamp(0, size - 1), size)
    return once @ (once @ once)


def _folded(taps: Tensor, place: Tensor, size: int) -> Tensor:
    """Matrices with ``taps`` ``(B, K)`` in every row at the columns ``place`` ``(size, K)``, added where they meet."""
    batch, width = taps.shape
    matrix = torch.zeros(batch, size, size, dtype=torch.float32, device=taps.device)
    index = place[None].expand(batch, size, width)
    return matrix.scatter_add_(2, index, taps.float()[:, None].expand(batch, size, width))


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ image @ columns^T`` of every item and channel.

    Args:
        images: ``(B, C, H, W)`` float32.
        rows: ``(B, h, H)``.
        columns: ``(B, w, W)``.

    Returns:
        ``(B, C, h, w)`` float32.
    """
    channels = images.shape[1]
    if channels == 1:
        return torch.bmm(rows, torch.bmm(images[:, 0], columns.transpose(1, 2)))[:, None]
    return rows[:, None] @ (images @ columns.transpose(1, 2)[:, None])


def crop_boxes(
    uniforms: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """The boxes of torchvision's ``RandomResizedCrop``: ten tries, then the largest box of a legal ratio in the middle.

    Args:
        uniforms: ``(B, 40)`` in [0, 1): area, ratio, top and left of each try.
        height: Of the pictures.
        width: Of the pictures.
        scale: Least and greatest share of the area.
        ratio: Least and greatest width over height, drawn evenly in the logarithm.

    Returns:
        ``(B, 4)`` int64: top, left, height, width.
    """
    candidates, fits = crop_candidates(uniforms, height, width, scale, ratio)
    return first_fit(candidates, fits, _middle_box(height, width, ratio))


def crop_candidates(
    uniforms: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """``(B, 10, 4)`` int64 boxes tried, and ``(B, 10)`` whether each lies within the picture."""
    u = uniforms.view(len(uniforms), 10, 4).double()
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + (high - low) * u[..., 1])
    w, h = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top = (u[..., 2] * (height - h + 1)).floor().clamp(min=0)
    left = (u[..., 3] * (width - w + 1)).floor().clamp(min=0)
    return torch.stack([top, left, h, w], -1).long(), fits


def first_fit(candidates: Tensor, fits: Tensor, otherwise: tuple[int, int, int, int]) -> Tensor:
    """The first candidate of each item that fits, else the same box for all: ``(B, 4)``."""
    chosen = candidates[torch.arange(len(candidates)), fits.int().argmax(1)]
    fallback = torch.tensor(otherwise, dtype=chosen.dtype)
    return torch.where(fits.any(1, keepdim=True), chosen, fallback)


def _middle_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w
