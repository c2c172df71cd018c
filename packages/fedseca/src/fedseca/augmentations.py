"""The training augmentation of Fed-ISIC2019, out of torchvision's transforms."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from shared.errors import UsageError


class Transposed(v2.Transform):
    """Rows become columns, with probability ``p``; for square pictures.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, image: Tensor) -> Tensor:
        """``(C, S, S)`` to the same."""
        return image.mT if torch.rand(()) < self.p else image


class CoarseDropout(v2.Transform):
    """With probability ``p``, between ``fewest`` and ``most`` black squares anywhere inside the picture.

    Args:
        fewest: Fewest squares.
        most: Most squares.
        size: Their side in pixels.
        p: Probability.
    """

    def __init__(self, fewest: int = 1, most: int = 8, size: int = 16, p: float = 0.7) -> None:
        super().__init__()
        if not 0 <= fewest <= most:
            raise UsageError(f"CoarseDropout needs 0 <= fewest <= most, got {fewest} and {most}")
        self.fewest, self.most, self.size, self.p = fewest, most, size, p

    def forward(self, image: Tensor) -> Tensor:
        """``(C, H, W)`` to the same; the input is not modified."""
        if torch.rand(()) >= self.p:
            return image
        holed = image.clone()
        rows, columns = (max(1, side - self.size + 1) for side in image.shape[-2:])
        for _ in range(int(torch.randint(self.fewest, self.most + 1, ()))):
            top, left = int(torch.randint(rows, ())), int(torch.randint(columns, ()))
            holed[:, top : top + self.size, left : left + self.size] = 0
        return holed


class Dermoscopy(v2.Transform):
    """Augmentation of dermoscopic pictures, after a recipe of the ISIC challenges written for albumentations.

    In its order, on ``(C, S, S)`` uint8 pictures that have their final size already (the recipe resizes near its end):

    ======================================================  ======================================================
    recipe                                                  here
    ======================================================  ======================================================
    Transpose, VerticalFlip, HorizontalFlip, each .5        the same
    RandomBrightnessContrast(.2, .2) .75                    ColorJitter of both
    one of MotionBlur, MedianBlur, GaussianBlur,            GaussianBlur (3 times in 4, for all three blurs; torchvision
    GaussNoise(var 5-30), .7                                has no motion or median blur) or GaussianNoise, sd 4.2
    one of OpticalDistortion, GridDistortion,               RandomPerspective (2 times in 3, for lens and grid
    ElasticTransform(alpha 3), .7                           distortion, which torchvision lacks) or ElasticTransform
    CLAHE(4) .7                                             RandomAutocontrast: global, not tile by tile
    HueSaturationValue(10, 20, 10) .5                       ColorJitter with the same shares of the range
    ShiftScaleRotate(.1, .1, 15) .85                        RandomAffine, black outside
    CoarseDropout(up to 8 holes of 16) .7                   :class:`CoarseDropout`, 1 to 8 drawn for every picture
                                                            (the recipe draws the number once per run)
    ======================================================  ======================================================

    Stand-ins keep the probability and the kind of change, not its exact distribution.
    """

    def __init__(self) -> None:
        super().__init__()
        noise = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.GaussianNoise(sigma=17.5**0.5 / 255),
                v2.ToDtype(torch.uint8, scale=True),
            ]
        )
        bent = [v2.RandomPerspective(0.2, p=1), v2.ElasticTransform(alpha=3.0)]
        self.steps = v2.Compose(
            [
                Transposed(0.5),
                v2.RandomVerticalFlip(0.5),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], 0.75),
                v2.RandomApply([v2.RandomChoice([v2.GaussianBlur((3, 5)), noise], p=[0.75, 0.25])], 0.7),
                v2.RandomApply([v2.RandomChoice(bent, p=[2 / 3, 1 / 3])], 0.7),
                v2.RandomAutocontrast(0.7),
                v2.RandomApply([v2.ColorJitter(brightness=10 / 255, saturation=20 / 255, hue=10 / 180)], 0.5),
                v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.9, 1.1))], 0.85),
                CoarseDropout(),
            ]
        )

    def forward(self, image: Any) -> Any:
        """``(C, S, S)`` uint8 to the same."""
        return self.steps(image)
