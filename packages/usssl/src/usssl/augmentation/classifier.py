"""Pictures for the classifier: the reference's training recipe, and plain resizing for evaluation."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from usssl.augmentation.normalisation import normalised_picture
from usssl.augmentation.resizing import Resize, resized


@dataclass(frozen=True)
class ClassifierAugmentation:
    """Resize (bicubic), RandAugment(5, 5), mirror images both ways, normalise.

    Attributes:
        operations: Of RandAugment; 0 leaves it out.
        magnitude: Of RandAugment, 0 to 30.
        horizontal_flip: Chance of a mirror image.
        vertical_flip: Chance of an upside-down picture, which changes the side of a heart; the reference has 0.5.
    """

    operations: int = 5
    magnitude: int = 5
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5

    def changed(self, picture: Image.Image, size: int, resize: Resize) -> Tensor:
        """``(3, S, S)`` float32 of a picture in mode RGB; all chance comes from torch's global generator."""
        steps: list[Any] = [v2.RandAugment(self.operations, self.magnitude)] if self.operations else []
        steps += [v2.RandomHorizontalFlip(self.horizontal_flip), v2.RandomVerticalFlip(self.vertical_flip)]
        picture = resized(picture, size, resize)
        for step in steps:
            picture = step(picture)
        return normalised_picture(picture)

    @staticmethod
    def plain(picture: Image.Image, size: int, resize: Resize) -> Tensor:
        """``(3, S, S)`` float32, resized and normalised."""
        return normalised_picture(resized(picture, size, resize))
