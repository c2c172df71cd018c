"""Crops, flips and blurs of a batch: linear and separable, so a picture X becomes ``R X C^T`` with matrices per item.

Resizing with antialiasing as Pillow does it and mirror images are one such step on an accelerator. Sampling a grid
instead reads four pixels for each pixel of the result however much the crop shrinks, which turns fine speckle into
noise that the PIL recipes do not have.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

Filter = Literal["bilinear", "bicubic"]
BLOCK = 32  # pixels that share a part of a band matrix
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


def gaussian_taps(sigma: Tensor, radius: int) -> Tensor:
    """``(B, 2 radius + 1)`` weights of torchvision's Gaussian blur for ``(B,)`` widths ``sigma`` in pixels."""
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device=sigma.device)
    taps = torch.exp(-0.5 * (offset / sigma.double()[:, None]) ** 2)
    return (taps / taps.sum(1, keepdim=True)).float()


def box_taps(sigma: Tensor) -> Tensor:
    """``(B, K)`` weights of Pillow's ``GaussianBlur``: three passes of a box whose ends count in part.

    The box has half width ``l + a`` with ``L = sqrt(4 s^2 + 1)``, ``l = floor((L - 1) / 2)`` and the share ``a`` of the
    end pixels that keeps the variance ``s^2`` of all three.
    """
    s2 = sigma.double() ** 2
    l = (((4 * s2 + 1).sqrt() - 1) / 2).floor()  # noqa: E741 - the formula's name
    a = (2 * l + 1) * (l * (l + 1) - s2) / (2 * (s2 - 3 * (l + 1) ** 2))
    reach = int(l.max()) + 1
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64, device=sigma.device).abs()
    box = (offset <= l[:, None]) + (offset == l[:, None] + 1) * a[:, None]
    box = box / (2 * (l + a) + 1)[:, None]
    once = box[:, None]
    taps = once
    for _ in range(2):  # convolved with itself: one picture per channel
        taps = F.conv1d(taps.transpose(0, 1), once, padding=2 * reach, groups=len(box)).transpose(0, 1)
    return taps[:, 0].float()


def blurred(images: Tensor, taps: Tensor, edges: Literal["reflect", "replicate"]) -> Tensor:
    """Blur rows and columns of each picture with its own weights.

    A band matrix has few entries beside its diagonal, so blocks of :data:`BLOCK` pixels are multiplied with the part of
    it that reaches them: a fraction of the full product's work.

    Args:
        images: ``(B, C, S, S)`` float32.
        taps: ``(B, K)``, K odd.
        edges: What lies beyond them.

    Returns:
        ``(B, C, S, S)`` float32.
    """
    batch, channels = images.shape[:2]
    radius = taps.shape[1] // 2
    place = torch.arange(BLOCK + 2 * radius, device=images.device)[:, None] - torch.arange(BLOCK, device=images.device)
    inside = (place >= 0) & (place <= 2 * radius)
    band = taps[:, place.clamp(0, 2 * radius)] * inside  # (B, BLOCK + 2 radius, BLOCK)
    for _ in range(2):  # along the last axis, then the picture is turned
        side = images.shape[-1]
        padded = F.pad(images, (radius, radius, 0, 0), mode=edges)
        padded = F.pad(padded, (0, -side % BLOCK))
        pieces = padded.unfold(-1, BLOCK + 2 * radius, BLOCK).reshape(batch, -1, BLOCK + 2 * radius)
        images = torch.bmm(pieces, band).view(batch, channels, images.shape[-2], -1)[..., :side].transpose(-1, -2)
    return images


def cropped(images: Tensor, boxes: Tensor, flipped: Tensor, size: int, kind: Filter) -> Tensor:
    """Crops resized to one size with antialiasing, some of them mirrored.

    On a CPU torch's own resizing of bytes, picture by picture, which is Pillow's arithmetic; elsewhere two products of
    matrices for the whole batch.

    Args:
        images: ``(B, C, H, W)`` uint8.
        boxes: ``(B, 4)`` int64: top, left, height, width.
        flipped: ``(B,)`` bool.
        size: Pixels of a side.
        kind: The filter.

    Returns:
        ``(B, C, size, size)`` float32, 0 to 255.
    """
    if images.device.type == "cpu":
        result = torch.empty(len(images), images.shape[1], size, size)
        mode = InterpolationMode(kind)
        for number, (top, left, height, width) in enumerate(boxes.tolist()):
            part = images[number : number + 1, :, top : top + height, left : left + width]
            part = resize(part, [size, size], mode, antialias=True)
            result[number] = part[0].flip(-1) if flipped[number] else part[0]
        return result
    top, left, height, width = boxes.to(images.device).unbind(1)
    mirror = flipped.to(images.device)
    rows = crop_matrices(top, height, torch.zeros_like(mirror), images.shape[-2], size, kind)
    columns = crop_matrices(left, width, mirror, images.shape[-1], size, kind)
    return separable(images.float(), rows, columns).clamp_(0, 255)


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
