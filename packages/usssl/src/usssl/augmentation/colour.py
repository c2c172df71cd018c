"""Brightness, contrast, saturation and hue of batches on the scale 0 to 255, with factors for each item."""

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
ORDERS = 24  # of four operations


def luma(images: Tensor) -> Tensor:
    """``(B, 1, H, W)``: ITU-R 601-2, as Pillow makes grey of colour."""
    if images.shape[1] == 1:
        return images
    r, g, b = images.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)[:, None]


def jittered(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    r"""Change colours as torchvision's ``ColorJitter`` does, every item in an order of its own.

    Brightness is :math:`bx`, contrast :math:`cx + (1 - c)\bar g` and saturation :math:`sx + (1 - s)g` with the grey
    picture :math:`g` and its mean, and hue a turn; each is clipped. Saturation and hue leave grey pictures as they
    are, so for one channel two fused multiply-adds remain.

    Args:
        images: ``(B, 1 or 3, H, W)`` float32; may be overwritten.
        factors: ``(B, 4)``: b, c, s and the hue's turn in revolutions; (1, 1, 1, 0) changes nothing.
        order: ``(B, 4)`` int64, which of the four comes first, second and so on.
    """
    if images.shape[1] == 1:
        return _jittered_grey(images, factors[:, 0], factors[:, 1], _before(order, 0, 1))
    for slot in range(4):
        for kind, operation in enumerate((_brightness, _contrast, _saturation, _hue)):
            neutral = 0.0 if kind == 3 else 1.0
            rows = torch.nonzero((order[:, slot] == kind) & (factors[:, kind] != neutral))[:, 0]
            if len(rows):
                rows = rows.to(images.device)
                factor = factors[rows.to(factors.device), kind].to(images.device, images.dtype).view(-1, 1, 1, 1)
                images[rows] = operation(images[rows], factor)
    return images


def _before(order: Tensor, first: int, second: int) -> Tensor:
    """``(B,)`` bool: whether operation ``first`` comes before ``second``."""
    return (order == first).int().argmax(1) < (order == second).int().argmax(1)


def _jittered_grey(images: Tensor, brightness: Tensor, contrast: Tensor, bright_first: Tensor) -> Tensor:
    active = torch.nonzero((brightness != 1) | (contrast != 1))[:, 0]
    if not len(active):
        return images
    everywhere = len(active) == len(images)
    b, c, first = (t[active].to(images.device).view(-1, 1, 1, 1) for t in (brightness, contrast, bright_first))
    b, c = b.to(images.dtype), c.to(images.dtype)
    rows = active.to(images.device)
    part = images if everywhere else images[rows]
    for now in (first, ~first):  # true where this step is brightness
        mean = part.mean((1, 2, 3), keepdim=True).round()  # Pillow's contrast turns on a whole grey level
        shift = torch.where(now, torch.zeros_like(mean), (1 - c) * mean)
        part = torch.addcmul(shift, part, torch.where(now, b, c)).clamp_(0, 255)
    if everywhere:
        return part
    images[rows] = part
    return images


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 255)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = luma(x).mean((1, 2, 3), keepdim=True).round()
    return (x * factor + (1 - factor) * mean).clamp_(0, 255)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor + (1 - factor) * luma(x)).clamp_(0, 255)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Through HSV: value and saturation stay, the hue turns."""
    r, g, b = (x / 255).unbind(1)
    high, which = torch.stack([r, g, b]).max(0)
    span = high - torch.minimum(torch.minimum(r, g), b)
    safe = torch.where(span == 0, 1.0, span)
    sector = torch.stack([((g - b) / safe) % 6, (b - r) / safe + 2, (r - g) / safe + 4])
    hue = torch.gather(sector, 0, which[None])[0] / 6 + turn[:, 0]
    offset = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (offset + 6 * hue[:, None]) % 6
    return 255 * (high[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1))


def greyed(images: Tensor, rows: Tensor) -> Tensor:
    """Colour taken away in some items; grey batches stay as they are."""
    if images.shape[1] == 3 and len(rows):
        rows = rows.to(images.device)
        images[rows] = luma(images[rows]).expand(-1, 3, -1, -1)
    return images


def solarised(images: Tensor, rows: Tensor, threshold: float = 128.0) -> Tensor:
    """Levels from ``threshold`` on inverted in some items, as Pillow does it."""
    if len(rows):
        rows = rows.to(images.device)
        part = images[rows]
        # Pictures of PIL hold whole numbers here: 127.5 rounds to 128.
        images[rows] = torch.where(part >= threshold - 0.5, 255 - part, part)
    return images


def drawn_jitter(uniforms: Tensor, strength: tuple[float, float, float, float], chance: float) -> tuple[Tensor, Tensor]:
    """Factors and orders of :func:`jittered`.

    Args:
        uniforms: ``(B, 9)`` in [0, 1).
        strength: Of brightness, contrast, saturation (factors in ``max(0, 1 - s) .. 1 + s``) and hue (turn in
            ``-s .. s``).
        chance: That anything happens.
    """
    u = uniforms.double()
    low = torch.tensor([max(0.0, 1 - s) for s in strength[:3]] + [-strength[3]], dtype=torch.float64)
    high = torch.tensor([1 + s for s in strength[:3]] + [strength[3]], dtype=torch.float64)
    drawn = low + (high - low) * u[:, :4]
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    factors = torch.where((u[:, 8] < chance)[:, None], drawn, neutral)
    return factors, u[:, 4:8].argsort(1)
