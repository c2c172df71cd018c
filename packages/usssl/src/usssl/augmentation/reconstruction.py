"""One image for the autoencoder; an image with a hole, and whole, for inpainting."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from usssl.augmentation.normalisation import normalised_batch, normalised_picture
from usssl.augmentation.rand_augment import rand_augmented
from usssl.augmentation.recipes import BatchViews, PilViews, ViewRecipe, item_uniforms, noise_generator
from usssl.augmentation.resampling import crop_candidates, first_fit
from usssl.augmentation.resizing import Resize, resized

ERASED_SCALE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class AutoencoderViews(ViewRecipe):
    """Resize, RandAugment, mirror images both ways; gives ``(image,)``, which is input and target.

    Attributes:
        operations: Of RandAugment.
        magnitude: Of RandAugment, 0 to 30.
        vertical_flip: Also turn pictures upside down, as the reference does; that changes the side of a heart.
    """

    operations: int = 3
    magnitude: int = 3
    vertical_flip: bool = True

    resizes_first = True

    def pil(self, size: int, resize: Resize) -> PilViews:
        augment = v2.RandAugment(self.operations, self.magnitude)
        flips = [v2.RandomHorizontalFlip(0.5), *([v2.RandomVerticalFlip(0.5)] if self.vertical_flip else [])]

        def one(pictures: Sequence[Image.Image]) -> tuple[Tensor, ...]:
            picture = augment(resized(pictures[0], size, resize))
            for flip in flips:
                picture = flip(picture)
            return (normalised_picture(picture),)

        return one

    def batched(self, size: int) -> BatchViews:
        def one(batches: Sequence[Tensor], seeds: Sequence[int]) -> tuple[Tensor, ...]:
            return (self._changed(batches[0], item_uniforms(seeds, 2 + 2 * self.operations)),)

        return one

    def _changed(self, images: Tensor, u: Tensor) -> Tensor:
        images = rand_augmented(images, self.operations, self.magnitude, u[:, 2:])
        for coin, axis, wanted in ((u[:, 0], -1, True), (u[:, 1], -2, self.vertical_flip)):
            rows = torch.nonzero(coin < 0.5)[:, 0].to(images.device)
            if wanted and len(rows):
                images[rows] = images[rows].flip(axis)
        return normalised_batch(images)


@dataclass(frozen=True)
class InpaintViews(AutoencoderViews):
    """As :class:`AutoencoderViews` with RandAugment(1, 1); gives ``(erased, image)``.

    A box of 2 to 33 % of the area, sides in a ratio of 0.3 to 3.3, is filled with normal noise after normalisation.
    """

    operations: int = 1
    magnitude: int = 1

    def pil(self, size: int, resize: Resize) -> PilViews:
        whole = super().pil(size, resize)
        erase = v2.RandomErasing(1.0, ERASED_SCALE, ERASED_RATIO, value="random")

        def two(pictures: Sequence[Image.Image]) -> tuple[Tensor, ...]:
            (image,) = whole(pictures)
            return erase(image.clone()), image

        return two

    def batched(self, size: int) -> BatchViews:
        def two(batches: Sequence[Tensor], seeds: Sequence[int]) -> tuple[Tensor, ...]:
            u = item_uniforms(seeds, 42 + 2 * self.operations)
            image = self._changed(batches[0], u[:, 40:])
            noise = torch.empty_like(image).normal_(generator=noise_generator(seeds, image.device))
            return torch.where(erased_mask(u[:, :40], *image.shape[-2:]).to(image.device), noise, image), image

        return two


def erased_mask(uniforms: Tensor, height: int, width: int) -> Tensor:
    """``(B, 1, H, W)`` bool: the boxes of torchvision's ``RandomErasing``, ten tries each.

    Args:
        uniforms: ``(B, 40)`` in [0, 1).
        height: Of the pictures.
        width: Of the pictures.
    """
    # RandomErasing's ratio is height over width, the crop's is width over height: the same draw on its side.
    boxes, fits = crop_candidates(uniforms, width, height, ERASED_SCALE, ERASED_RATIO)
    fits &= (boxes[..., 2] < width) & (boxes[..., 3] < height)
    left, top, w, h = first_fit(boxes, fits, (0, 0, 0, 0))[:, :, None, None].unbind(1)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    return ((row >= top) & (row < top + h) & (column >= left) & (column < left + w))[:, None]
