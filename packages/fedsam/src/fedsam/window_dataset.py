"""Training samples of several volumes, and the loaders' parts that make them repeatable."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from fedsam.array_cache import ArrayCache
from fedsam.volumes import Case, Volume
from fedsam.windows import Interpolation, anti_transpose, min_max, resize_images, resize_labels, window_slices
from shared.data.prepared_images import Draw
from shared.federated.seeds import derived_generator


class Augmentation(Protocol):
    """A random change of training samples.

    Attributes:
        batched: Whether it wants whole batches ``(B, 5, S, S)`` after resizing; if not it is given single samples
            ``(5, H, W)`` of their stored size, before resizing.
    """

    batched: bool

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Changed images (float32 in [0, 1]) and labels (uint8) of the same rank; all chance is ``generator``'s."""


class Sample(NamedTuple):
    """Image ``(5, S, S)`` float32, label ``(5, S, S)`` uint8, and the seed that this draw of it came with."""

    image: Tensor
    label: Tensor
    seed: int


class Windows(Dataset[Sample]):
    """Every ``stride``-th window of each case, scaled to [0, 1] and resized.

    An index is a number, or a :class:`~shared.data.prepared_images.Draw` whose seed decides the augmentation. A window
    is cut when it is asked for: volumes stay on disk as they were cached.

    Args:
        cache: Where volumes come from.
        cases: The volumes.
        size: S.
        stride: 1 takes every window, 5 every fifth.
        interpolation: Of images; labels take the nearest voxel.
        anti_transposed: Whether slices are mirrored as in the reference's processed data.
        augment: A change of single samples, before resizing.
    """

    def __init__(
        self,
        cache: ArrayCache,
        cases: Sequence[Case],
        size: int,
        stride: int = 1,
        interpolation: Interpolation = "spline",
        anti_transposed: bool = False,
        augment: Augmentation | None = None,
    ) -> None:
        self.cache, self.cases = cache, list(cases)
        self.size, self.interpolation, self.anti_transposed = size, interpolation, anti_transposed
        self.augment = augment
        depths = [int(cache.facts(case)["shape"][0]) for case in self.cases]
        self.index = np.array([(case, z) for case, depth in enumerate(depths) for z in range(0, depth, stride)])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int | Draw) -> Sample:
        item, seed = (index.item, index.seed) if isinstance(index, Draw) else (index, 0)
        case, centre = self.index[item]
        volume = self.cache.volume(self.cases[case])
        assert volume.label is not None
        slices = window_slices(int(centre), volume.depth)
        image, label = min_max(volume.image[slices]), volume.label[slices]
        if self.anti_transposed:
            image, label = anti_transpose(image), anti_transpose(label)
        images, labels = torch.from_numpy(image.copy()), torch.from_numpy(label.copy())
        if self.augment is not None:
            images, labels = self.augment(images, labels, torch.Generator().manual_seed(seed))
        return Sample(resize_images(images, self.size, self.interpolation), resize_labels(labels, self.size), seed)


class Batcher:
    """Collates samples, and lets a batched augmentation change the result.

    Args:
        augment: A change of whole batches; its generator follows from the seed of the batch's first sample.
    """

    def __init__(self, augment: Augmentation | None = None) -> None:
        self.augment = augment

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """``(B, 5, S, S)`` float32 and uint8."""
        images = torch.stack([sample.image for sample in samples])
        labels = torch.stack([sample.label for sample in samples])
        if self.augment is not None:
            return self.augment(images, labels, torch.Generator().manual_seed(samples[0].seed))
        return images, labels


class EpochDraws(DistributedSampler[Draw]):
    """Every item once per epoch, in an order that seed and epoch decide; ranks share the items.

    Lightning tells the epoch before each one and leaves samplers of this kind alone, so a resumed run sees what an
    uninterrupted one sees, and each rank its own part of one common order (the last items are repeated to make the
    parts equal).

    Args:
        dataset: The items.
        seed: Of order and augmentation.
    """

    def __init__(self, dataset: Windows, seed: int) -> None:
        many = torch.distributed.is_available() and torch.distributed.is_initialized()
        world, rank = (torch.distributed.get_world_size(), torch.distributed.get_rank()) if many else (1, 0)
        super().__init__(dataset, num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.items = len(dataset)

    def __iter__(self) -> Iterator[Draw]:
        # As the first client of a federation draws in a round of one pass.
        generator = derived_generator(self.seed, "shuffle", self.epoch, 0)
        order = torch.randperm(self.items, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.items,), generator=generator).tolist()
        draws = list(map(Draw, order, seeds))
        repeats = -(-self.total_size // self.items)
        return iter((draws * repeats)[self.rank : self.total_size : self.num_replicas])


class WholeVolumes(Dataset[Volume]):
    """Volumes as they were cached, for evaluation: image float32 and label in memory of their own.

    Args:
        cache: Where they come from.
        cases: The volumes.
        anti_transposed: Whether slices are mirrored as in training.
    """

    def __init__(self, cache: ArrayCache, cases: Sequence[Case], anti_transposed: bool = False) -> None:
        self.cache, self.cases, self.anti_transposed = cache, list(cases), anti_transposed

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Volume:
        stored = self.cache.volume(self.cases[index])
        volume = anti_transposed_volume(stored) if self.anti_transposed else stored
        label = None if volume.label is None else np.array(volume.label, dtype=np.uint8, order="C")
        image = np.array(volume.image, dtype=np.float32, order="C")
        return Volume(**{**volume.__dict__, "image": image, "label": label})


def anti_transposed_volume(volume: Volume) -> Volume:
    """The same scan with mirrored slices; its affine says so, so that maps of it are written back where they belong."""
    _, height, width = volume.image.shape
    affine = volume.affine
    if affine is not None:
        # New index (z, i, j) is old index (z, H-1-j, W-1-i).
        to_old = np.array([[1, 0, 0, 0], [0, 0, -1, height - 1], [0, -1, 0, width - 1], [0, 0, 0, 1.0]])
        affine = affine @ to_old
    return Volume(
        image=anti_transpose(volume.image),
        label=None if volume.label is None else anti_transpose(volume.label),
        spacing=np.asarray(volume.spacing)[[0, 2, 1]],
        site=volume.site,
        case=volume.case,
        provenance=volume.provenance,
        affine=affine,
        native_affine=volume.native_affine if volume.native_affine is not None else volume.affine,
    )
