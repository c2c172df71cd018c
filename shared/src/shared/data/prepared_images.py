"""A labelled image set as a network wants it: normalised float32 tensors, fetched a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms.v2 import Transform

from shared.data.labelled_images import LabelledImages
from shared.data.preprocessing import Interpolation, layout, normalise
from shared.errors import UsageError


class Draw(NamedTuple):
    """An item together with the seed of its augmentation."""

    item: int
    seed: int


class ShuffledDraws(Sampler[Draw]):
    """Every item once in random order, each with a fresh seed; each pass goes on with the same generator.

    The seeds travel with the indices so that an augmented item depends on the generator alone, and neither on the
    batch nor on the worker that it falls to.
    """

    def __init__(self, items: int, generator: torch.Generator) -> None:
        self.items = items
        self.generator = generator

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[Draw]:
        order = torch.randperm(self.items, generator=self.generator).tolist()
        seeds = torch.randint(2**62, (self.items,), generator=self.generator).tolist()
        return map(Draw, order, seeds)


@dataclass(frozen=True)
class Preprocessing:
    """The settings of :func:`~shared.data.preprocessing.layout` and :func:`~shared.data.preprocessing.normalise`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int | None = None
    size: int | None = None
    interpolation: Interpolation = "bilinear"
    crop: bool = False


class PreparedImages(Dataset[tuple[Tensor, int]]):
    """Items are ``((C, H, W) float32, label)``; a batch is laid out, resized and normalised in one go.

    Args:
        data: The stored pictures.
        preprocessing: How to bring them into shape.
        augment: Transforms of single ``(C, H, W)`` uint8 pictures, applied after resizing and before normalisation.

    An index is an integer, and augmentation then draws from torch's global generator; or it is a :class:`Draw`, whose
    seed alone decides.
    """

    def __init__(
        self, data: LabelledImages, preprocessing: Preprocessing, augment: Sequence[Transform] | None = None
    ) -> None:
        self.data = data
        self.preprocessing = preprocessing
        self.augment = tuple(augment or ())

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64."""
        return torch.from_numpy(self.data.labels)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | Draw]) -> list[tuple[Tensor, int]]:
        rows = [index.item if isinstance(index, Draw) else index for index in indices]
        options = self.preprocessing
        images = layout(self.data.pixels(rows), options.channels, options.size, options.interpolation, options.crop)
        if self.augment:
            images = self._augmented(images, indices)
        tensors = normalise(images, options.mean, options.std).unbind()
        return list(zip(tensors, self.data.labels[rows].tolist(), strict=True))

    def _augmented(self, images: Tensor, indices: Sequence[int | Draw]) -> Tensor:
        seeds = [index.seed if isinstance(index, Draw) else None for index in indices]
        with torch.random.fork_rng(devices=[], enabled=any(seed is not None for seed in seeds)):
            changed = []
            for image, seed in zip(images, seeds, strict=True):
                if seed is not None:
                    torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the GPU's state alone
                changed.append(self._transformed(image))
        return torch.stack(changed)

    def _transformed(self, image: Tensor) -> Tensor:
        channels = len(image)
        for transform in self.augment:
            image = transform(image)
        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != channels:
            raise UsageError(
                f"data.augment must keep images uint8 with {channels} channels (normalisation follows), "
                f"got {image.dtype} of shape {tuple(image.shape)}"
            )
        return image
