"""Two views of a picture for the contrastive, distilling and information-theoretic methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from shared.errors import UsageError
from usssl.augmentation.colour import drawn_jitter, greyed, jittered, solarised
from usssl.augmentation.extras import UltrasoundExtra, sector_boxes
from usssl.augmentation.normalisation import normalised_batch, normalised_picture
from usssl.augmentation.recipes import BatchViews, PilViews, ViewRecipe, item_uniforms, noise_generator
from usssl.augmentation.resampling import (
    Filter,
    blurred,
    box_taps,
    crop_boxes,
    cropped,
    gaussian_taps,
)
from usssl.augmentation.resizing import Resize

RATIO = (3 / 4, 4 / 3)
_AT_A_TIME = 4
_DRAWS = 56  # uniforms that one view takes at most: 40 of the crop, 16 below


@dataclass(frozen=True)
class View:
    """How one view is made: crop, mirror, colour, blur, solarise.

    Attributes:
        filter: Of the crop's resizing.
        jitter: Strength of brightness, contrast, saturation and hue.
        jitter_chance: Of any of it.
        grey: Chance of losing colour.
        blur: Chance of blur.
        pil_blur: Pillow's Gaussian blur instead of torchvision's with a kernel of a tenth of the picture.
        solarise: Chance of inverting bright levels.
        rand_augment: Operations and magnitude of RandAugment in place of colour, blur and solarise.
    """

    filter: Filter
    jitter: tuple[float, float, float, float]
    jitter_chance: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    pil_blur: bool = False
    solarise: float = 0.0
    rand_augment: tuple[int, int] | None = None


SIMCLR = View("bilinear", (0.8, 0.8, 0.8, 0.2))
INFOMAX_1 = View("bicubic", (0.4, 0.4, 0.2, 0.1), blur=1.0, pil_blur=True)
INFOMAX_2 = View("bicubic", (0.4, 0.4, 0.2, 0.1), blur=0.1, pil_blur=True, solarise=0.2)
RANDAUGMENTED = View("bicubic", (0, 0, 0, 0), rand_augment=(5, 5))


def kernel_radius(size: int) -> int:
    """Half of the blur's kernel, whose width is a tenth of the picture, made odd: 25 at 256.

    Example:
        >>> [2 * kernel_radius(size) + 1 for size in (256, 224, 64)]
        [25, 23, 7]
    """
    return int(0.1 * size) // 2


@dataclass(frozen=True)
class TwoViews(ViewRecipe):
    """Two views, each with a recipe of its own.

    Attributes:
        scale: Least and greatest share of the picture that a crop keeps.
        flip: Chance of a mirror image.
        extras: Changes made for ultrasound, after the crop and before colour; none in the reference.
        sector: Share of a crop that must show the sector rather than black; ``None`` crops anywhere, as the reference.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    extras: Sequence[UltrasoundExtra] = field(default_factory=tuple)
    sector: float | None = None

    sources = 2

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"data.views.scale must be two shares in (0, 1], got {list(self.scale)}")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"data.views.flip must lie in [0, 1], got {self.flip}")
        if self.sector is not None and not 0 < self.sector <= 1:
            raise UsageError(f"data.views.sector must lie in (0, 1], got {self.sector}")

    @property
    def recipe(self) -> tuple[View, View]:
        """The two views."""
        raise NotImplementedError

    def pil(self, size: int, resize: Resize) -> PilViews:
        views = [_PilView(view, self, size) for view in self.recipe]

        def both(pictures: Sequence[Image.Image]) -> tuple[Tensor, ...]:
            return views[0](pictures[0]), views[1](pictures[-1])

        return both

    def batched(self, size: int) -> BatchViews:
        def both(batches: Sequence[Tensor], seeds: Sequence[int]) -> tuple[Tensor, ...]:
            uniforms = item_uniforms(seeds, 2 * (_DRAWS + 8 * len(self.extras))).chunk(2, dim=1)
            device = batches[0].device
            noise = noise_generator(seeds, device)
            views = tuple(torch.empty(len(seeds), 3, size, size, device=device) for _ in range(2))
            # A few pictures at a time stay in a CPU's cache from the first step to the last.
            step = _AT_A_TIME if device.type == "cpu" else len(seeds)
            for out, images, view, u in zip(views, (batches[0], batches[-1]), self.recipe, uniforms, strict=True):
                for start in range(0, len(seeds), step):
                    part = slice(start, start + step)
                    _batched_view(images[part], view, self, size, u[part], noise, out[part])
            return views

        return both


class SimclrViews(TwoViews):
    """SimCLR, MoCo and BYOL: both views alike, strong colour jitter, blur in half of them."""

    @property
    def recipe(self) -> tuple[View, View]:
        """The two views."""
        return SIMCLR, SIMCLR


class InfomaxViews(TwoViews):
    """Barlow Twins and VICReg: the first view always blurred, the second seldom blurred and sometimes solarised."""

    @property
    def recipe(self) -> tuple[View, View]:
        """The two views."""
        return INFOMAX_1, INFOMAX_2


class InfomaxCustomViews(TwoViews):
    """An older variant of the reference: first view by RandAugment(5, 5), second as in :class:`InfomaxViews`."""

    @property
    def recipe(self) -> tuple[View, View]:
        """The two views."""
        return RANDAUGMENTED, INFOMAX_2


# ------------------------------------------------------------------------------------------------ on PIL pictures


class _PilView:
    def __init__(self, view: View, recipe: TwoViews, size: int) -> None:
        self.recipe, self.size = recipe, size
        self.mode = InterpolationMode.BICUBIC if view.filter == "bicubic" else InterpolationMode.BILINEAR
        crop = v2.RandomResizedCrop(size, recipe.scale, RATIO, interpolation=self.mode)
        self.crop = crop if recipe.sector is None else self._sector_crop
        self.flip = v2.RandomHorizontalFlip(recipe.flip)
        self.after: list[Any] = []
        if view.rand_augment is not None:
            self.after.append(v2.RandAugment(*view.rand_augment))
            return
        self.after.append(v2.RandomApply([v2.ColorJitter(*view.jitter)], p=view.jitter_chance))
        self.after.append(v2.RandomGrayscale(view.grey))
        if view.pil_blur:
            self.after.append(lambda picture: _pil_blurred(picture, view.blur))
            self.after.append(lambda picture: _pil_solarised(picture, view.solarise))
        else:
            blur = v2.GaussianBlur(2 * kernel_radius(size) + 1, (0.1, 2.0))
            self.after.append(v2.RandomApply([blur], p=view.blur))

    def _sector_crop(self, picture: Image.Image) -> Image.Image:
        assert self.recipe.sector is not None
        pixels = v2.functional.pil_to_tensor(picture.convert("L"))[None]
        uniforms = torch.rand(1, 40, dtype=torch.float64)
        boxes = sector_boxes(uniforms, pixels, self.recipe.scale, RATIO, self.recipe.sector)
        top, left, height, width = boxes[0].tolist()
        return v2.functional.resized_crop(picture, top, left, height, width, [self.size] * 2, self.mode)

    def __call__(self, picture: Image.Image) -> Tensor:
        picture = self.flip(self.crop(picture))
        for extra in self.recipe.extras:
            picture = extra.on_picture(picture)
        for step in self.after:
            picture = step(picture)
        return normalised_picture(picture)


def _pil_blurred(picture: Image.Image, chance: float) -> Image.Image:
    u = torch.rand(2)
    return picture.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * float(u[1]))) if u[0] < chance else picture


def _pil_solarised(picture: Image.Image, chance: float) -> Image.Image:
    return ImageOps.solarize(picture, 128) if torch.rand(()) < chance else picture


# ------------------------------------------------------------------------------------------------ on batches


def _batched_view(
    images: Tensor,
    view: View,
    recipe: TwoViews,
    size: int,
    uniforms: Tensor,
    noise: torch.Generator,
    out: Tensor,
) -> None:
    height, width = images.shape[-2:]
    u = uniforms[:, 40:]
    if recipe.sector is None:
        boxes = crop_boxes(uniforms[:, :40], height, width, recipe.scale, RATIO)
    else:
        boxes = sector_boxes(uniforms[:, :40], images, recipe.scale, RATIO, recipe.sector)
    x = cropped(images, boxes, u[:, 0] < recipe.flip, size, view.filter)
    for number, extra in enumerate(recipe.extras):
        x = extra.on_batch(x, uniforms[:, _DRAWS + 8 * number : _DRAWS + 8 * number + 8], noise)
    if view.rand_augment is not None:
        from usssl.augmentation.rand_augment import rand_augmented

        x = rand_augmented(x.round_().to(torch.uint8), *view.rand_augment, u[:, 1:])
    else:
        x = jittered(x, *drawn_jitter(u[:, 1:10], view.jitter, view.jitter_chance))
        x = greyed(x, torch.nonzero(u[:, 10] < view.grey)[:, 0])
        x = _sometimes_blurred(x, view, u[:, 11], 0.1 + 1.9 * u[:, 12])
        x = solarised(x, torch.nonzero(u[:, 13] < view.solarise)[:, 0])
    normalised_batch(x, out)


def _sometimes_blurred(x: Tensor, view: View, coin: Tensor, sigma: Tensor) -> Tensor:
    rows = torch.nonzero(coin < view.blur)[:, 0]
    if not len(rows):
        return x
    drawn = sigma[rows].to(x.device)
    taps = box_taps(drawn) if view.pil_blur else gaussian_taps(drawn, kernel_radius(x.shape[-1]))
    edges: Literal["reflect", "replicate"] = "replicate" if view.pil_blur else "reflect"
    if len(rows) == len(x):
        return blurred(x, taps, edges)
    rows = rows.to(x.device)
    x[rows] = blurred(x[rows], taps, edges)
    return x
