"""Changes that ultrasound itself makes: speckle, attenuation, shadows, haze, gain. No paper recipe uses them.

After what later ultrasound work adds to the usual recipes; the formulas are in the classes. All act on the scale 0 to
255 and leave black pixels black, since outside the sector there is nothing to change.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from shared.errors import UsageError
from usssl.augmentation.resampling import crop_candidates, first_fit


@dataclass(frozen=True)
class UltrasoundExtra(ABC):
    """One change.

    Attributes:
        chance: That an image is changed.
    """

    chance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise UsageError(f"data.views.extras: chance must lie in [0, 1], got {self.chance}")

    @abstractmethod
    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        """The images ``(B, C, H, W)``, all changed.

        Args:
            x: Float32, 0 to 255.
            u: ``(B, 7, 1, 1, 1)`` float32 in [0, 1), on the device of ``x``.
            noise: For values of every pixel.
        """

    def on_batch(self, x: Tensor, uniforms: Tensor, noise: torch.Generator) -> Tensor:
        """Change the share ``chance`` of a batch; ``uniforms`` is ``(B, 8)``."""
        rows = torch.nonzero(uniforms[:, 0] < self.chance)[:, 0]
        if not len(rows):
            return x
        u = uniforms[rows, 1:].to(x.device, x.dtype)[:, :, None, None, None]
        rows = rows.to(x.device)
        part = x[rows]
        x = x.clone()
        x[rows] = torch.where(part > 0, self.changed(part, u, noise).clamp_(0, 255), part)
        return x

    def on_picture(self, picture: Image.Image) -> Image.Image:
        """The same for one PIL picture; chance comes from torch's global generator."""
        noise = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        x = self.on_batch(pil_to_tensor(picture)[None].float(), torch.rand(1, 8, dtype=torch.float64), noise)
        return to_pil_image(x[0].round().to(torch.uint8))


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _depth(x: Tensor) -> Tensor:
    return torch.linspace(0, 1, x.shape[-2], device=x.device)[:, None]


def _across(x: Tensor) -> Tensor:
    return torch.linspace(0, 1, x.shape[-1], device=x.device)


@dataclass(frozen=True)
class Speckle(UltrasoundExtra):
    """Multiplicative noise: ``x (1 + s n)`` with ``n`` normal and ``s`` between 0 and ``strength``."""

    strength: float = 0.3

    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        n = torch.randn(len(x), 1, *x.shape[-2:], generator=noise, device=x.device)
        return x * (1 + _between(u[:, 0], 0, self.strength) * n)


@dataclass(frozen=True)
class DepthAttenuation(UltrasoundExtra):
    """Darker with depth: ``x exp(-a d)``, ``d`` from 0 at the top to 1 and ``a`` between 0 and ``strength``."""

    strength: float = 1.5

    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        return x * torch.exp(-_between(u[:, 0], 0, self.strength) * _depth(x))


@dataclass(frozen=True)
class GaussianShadow(UltrasoundExtra):
    """A dark spot: ``x (1 - s exp(-dx^2 / 2 a^2 - dy^2 / 2 b^2))`` at a random place, ``s`` up to ``strength``."""

    strength: float = 0.8

    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        dx = (_across(x) - u[:, 0]) / _between(u[:, 1], 0.05, 0.2)
        dy = (_depth(x) - u[:, 2]) / _between(u[:, 3], 0.1, 0.4)
        return x * (1 - _between(u[:, 4], 0.25, 1) * self.strength * torch.exp(-(dx**2 + dy**2) / 2))


@dataclass(frozen=True)
class Haze(UltrasoundExtra):
    """A bright noisy arc round the probe: ``x + 255 h v exp(-(r - c)^2 / 2 b^2)``.

    ``v`` is even noise, ``h`` goes up to ``strength``, ``r`` is the distance from the middle of the upper edge.
    """

    strength: float = 0.5

    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        r = torch.sqrt((_across(x) - 0.5) ** 2 + _depth(x) ** 2)
        arc = torch.exp(-(((r - _between(u[:, 0], 0.1, 0.8)) / _between(u[:, 1], 0.05, 0.2)) ** 2) / 2)
        v = torch.rand(len(x), 1, *x.shape[-2:], generator=noise, device=x.device)
        return x + 255 * _between(u[:, 2], 0, self.strength) * arc * v


@dataclass(frozen=True)
class GammaGain(UltrasoundExtra):
    """Another grey map and another time gain: ``255 (x / 255)^g t(d)``.

    ``log g`` lies between ``-strength`` and ``strength``; ``t`` runs straight between factors at five depths that
    differ from 1 by at most half of ``strength``.
    """

    strength: float = 0.35

    def changed(self, x: Tensor, u: Tensor, noise: torch.Generator) -> Tensor:
        gamma = torch.exp(_between(u[:, 0], -self.strength, self.strength))
        knots = 1 + self.strength * (u[:, 1:6, 0, 0, 0] - 0.5)
        gain = F.interpolate(knots[:, None], size=x.shape[-2], mode="linear", align_corners=True)[:, :, :, None]
        return 255 * (x / 255) ** gamma * gain


def sector_boxes(
    uniforms: Tensor, images: Tensor, scale: tuple[float, float], ratio: tuple[float, float], share: float
) -> Tensor:
    """Crops that show tissue: the first of ten boxes of which at least ``share`` lies in the sector, else the best.

    The sector is where anything within two pixels is brighter than black, so dark blood inside it counts.

    Args:
        uniforms: ``(B, 40)``, as for :func:`~usssl.augmentation.resampling.crop_boxes`.
        images: ``(B, C, H, W)``.
        scale: Of the boxes' area.
        ratio: Of the boxes' sides.
        share: In (0, 1].

    Returns:
        ``(B, 4)`` int64 on the CPU: top, left, height, width.
    """
    height, width = images.shape[-2:]
    bright = images.amax(1, keepdim=True).float()
    sector = (F.max_pool2d(bright, 5, stride=1, padding=2) > 8).float()[:, 0]
    table = F.pad(sector.cumsum(1).cumsum(2), (1, 0, 1, 0)).cpu().double()
    boxes, fits = crop_candidates(uniforms.cpu(), height, width, scale, ratio)
    top, left, h, w = boxes.unbind(-1)
    bottom, right = (top + h).clamp(max=height), (left + w).clamp(max=width)
    item = torch.arange(len(boxes))[:, None]
    inside = table[item, bottom, right] - table[item, top, right] - table[item, bottom, left] + table[item, top, left]
    found = torch.where(fits, inside / (h * w).clamp(min=1), -1.0)
    best = boxes[torch.arange(len(boxes)), found.argmax(1)]
    good = found >= share
    chosen = first_fit(boxes, good, (0, 0, height, width))
    chosen = torch.where(good.any(1, keepdim=True), chosen, best)
    whole = torch.tensor([0, 0, height, width])
    return torch.where(fits.any(1, keepdim=True), chosen, whole)
