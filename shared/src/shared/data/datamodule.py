"""Any source of labelled images as a LightningDataModule, pooled or divided among clients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform

from shared.data.labelled_images import LabelledImages
from shared.data.partition import Dirichlet, Partition
from shared.data.prepared_images import PreparedImages, Preprocessing, ShuffledDraws
from shared.data.preprocessing import Interpolation, channel_statistics, layout
from shared.data.sources import Source
from shared.data.splits import check_no_leak, group_split, stratified_fraction, stratified_split
from shared.distributed import WholeOnEveryRank
from shared.errors import UsageError

Batches = DataLoader[tuple[Tensor, int]]
"""Loaders of :class:`PreparedImages`: a batch is ``(B, C, H, W)`` float32 and ``(B,)`` int64."""


@dataclass(frozen=True)
class _Loaded:
    train: LabelledImages
    validation: LabelledImages | None
    test: LabelledImages
    shares: list[np.ndarray]
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    server: LabelledImages


def _streams(seed: int) -> list[np.random.Generator]:
    """One stream per purpose: the partition of a seed does not change when a validation share is held out."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]


def partition_stream(seed: int) -> np.random.Generator:
    """The random stream that :class:`ClassificationDataModule` divides the training images with."""
    return _streams(seed)[3]


class ClassificationDataModule(LightningDataModule):
    """Training, validation and test images for classification, with the training images divided among clients.

    The order is: read the source; hold out a test set if it brings none; hold out validation images; keep a
    ``fraction`` of the training labels; divide what is left among the clients. Each step has its own random stream
    of ``seed``, so changing one leaves the others as they are. Files are read on first use, so building the module
    costs nothing.

    Args:
        source: Where the images come from.
        clients: Number of clients K.
        partition: How the training images are divided among them.
        batch_size: Training batch. The last one of a pass is smaller; if it had a single item it is left out, since
            batch normalisation cannot train on one.
        eval_batch_size: Validation and test batch.
        validation: Share of the training images to hold out for validation; 0 validates on the source's validation
            set if it has one, else on the test set.
        test: Share of the images to hold out as test set; for sources that bring none, and only those.
        group: Column of the patient (or other group) that no two sets may share; held-out shares then consist of
            whole groups.
        fraction: Share of the training images to keep, in every class.
        server_samples: Training images that the server keeps for itself, for rules that need clean data; drawn before
            the rest is divided, so no client has them.
        image_size: Height and width to resize to; ``None`` keeps the stored size, which must then be the same for all.
        interpolation: How to resize.
        eval_interpolation: How to resize validation and test images; ``None`` does it as for training.
        eval_crop: Cut the middle out of validation and test images instead of resizing them.
        channels: 1 or 3 to convert grey and colour; ``None`` keeps what is stored.
        mean: Of each channel on the scale 0 to 1; ``None`` computes mean and std from the training images.
        std: The same for the standard deviation; given if and only if ``mean`` is.
        augment: torchvision v2 transforms of single uint8 images, for training batches.
        num_workers: Loader processes.
        seed: Of every split and partition.

    Raises:
        UsageError: An option is out of range.
    """

    def __init__(
        self,
        source: Source,
        clients: int = 1,
        partition: Partition = Dirichlet(),  # noqa: B008 - frozen
        batch_size: int = 64,
        eval_batch_size: int = 256,
        validation: float = 0.0,
        test: float = 0.0,
        group: str | None = None,
        fraction: float = 1.0,
        server_samples: int = 0,
        image_size: int | None = None,
        interpolation: Interpolation = "bilinear",
        eval_interpolation: Interpolation | None = None,
        eval_crop: bool = False,
        channels: Literal[1, 3] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Sequence[Transform] | None = None,
        num_workers: int = 0,
        seed: int = 73,
    ) -> None:
        super().__init__()
        for option, value, least in (
            ("clients", clients, 1),
            ("batch_size", batch_size, 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("image_size", image_size, 1),
            ("num_workers", num_workers, 0),
            ("server_samples", server_samples, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"data.{option} must be at least {least}, got {value}")
        for option, share in (("validation", validation), ("test", test)):
            if not 0 <= share < 1:
                raise UsageError(f"data.{option} must lie in [0, 1), got {share}")
        if not 0 < fraction <= 1:
            raise UsageError(f"data.fraction must lie in (0, 1], got {fraction}")
        if channels not in (None, 1, 3):
            raise UsageError(f"data.channels must be 1, 3 or null, got {channels}")
        if eval_crop and image_size is None:
            raise UsageError("data.eval_crop needs data.image_size, the pixels to cut out, got null")
        if (mean is None) != (std is None):
            raise UsageError(f"data.mean and data.std must be given together, got mean {mean} and std {std}")
        if std is not None and min(std, default=0) <= 0:
            raise UsageError(f"data.std must be positive, got {list(std)}")
        self.source = source
        self.partition = partition
        self.num_clients = clients
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.test = test
        self.group = group
        self.fraction = fraction
        self.server_samples = server_samples
        self.size = image_size
        self.interpolation: Interpolation = interpolation
        self.eval_interpolation: Interpolation = eval_interpolation or interpolation
        self.eval_crop = eval_crop
        self.channels = channels
        self.mean = mean
        self.std = std
        self.augment = augment
        self.num_workers = num_workers
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Read, split and divide; a second call does nothing."""
        _ = self._loaded

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels."""
        return self._loaded.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, with those that have no image."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of the images that loaders give."""
        return self._loaded.image_shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images before augmentation."""
        return self._loaded.image_shape[1:]

    @property
    def provenance(self) -> str:
        """``real``, ``derived`` or ``synthetic``."""
        return self._loaded.train.provenance

    @property
    def data_name(self) -> str:
        """What the data are called."""
        return self._loaded.train.name.removesuffix(" train")

    @property
    def client_ids(self) -> list[int]:
        """``0 .. K-1``."""
        return list(range(self.num_clients))

    @property
    def client_names(self) -> list[str]:
        """What the clients are called in tables."""
        return self.partition.client_names(self.num_clients, self._loaded.train.columns)

    @property
    def val_is_test(self) -> bool:
        """Whether :meth:`val_dataloader` gives the test set, so that its metrics must be called ``test/...``."""
        return self._loaded.validation is None

    @property
    def test_images(self) -> LabelledImages:
        """The test images as stored, in the order of :meth:`test_dataloader`."""
        return self._loaded.test

    @property
    def train_images(self) -> LabelledImages:
        """The training images of all clients, as stored; :attr:`shares` are rows of it."""
        return self._loaded.train

    @property
    def shares(self) -> list[np.ndarray]:
        """Ascending rows of :attr:`train_images` that each client owns, by client id."""
        return self._loaded.shares

    @cached_property
    def train_dataset(self) -> PreparedImages:
        """The training images of all clients together."""
        return PreparedImages(self._loaded.train, self._loaded.preprocessing, self.augment)

    def client_dataset(self, client: int) -> PreparedImages:
        """The training images of one client.

        Raises:
            UsageError: There is no such client.
        """
        if client not in range(self.num_clients):
            raise UsageError(f"client ids lie in 0..{self.num_clients - 1} (data.clients), got {client}")
        share = self._loaded.train.subset(self._loaded.shares[client])
        return PreparedImages(share, self._loaded.preprocessing, self.augment)

    def client_loader(self, client: int, generator: torch.Generator) -> Batches:
        """Shuffled batches of one client, each item once per pass.

        Order and augmentation follow from ``generator`` alone, whatever the number of workers; every pass advances
        it. torch's global generator is neither read nor changed.
        """
        return self._shuffled(self.client_dataset(client), generator)

    def server_loader(self, generator: torch.Generator) -> Batches:
        """As :meth:`client_loader`, of the images that the server keeps for itself.

        Raises:
            UsageError: It keeps none.
        """
        if not self.server_samples:
            raise UsageError("data.server_samples must be above 0 where the server trains, got 0")
        dataset = PreparedImages(self._loaded.server, self._loaded.preprocessing, self.augment)
        return self._shuffled(dataset, generator)

    def _shuffled(self, dataset: PreparedImages, generator: torch.Generator) -> Batches:
        return DataLoader(
            dataset=dataset,
            batch_size=self.batch_size,
            sampler=ShuffledDraws(len(dataset), generator),
            drop_last=self._ends_in_one(dataset),
            num_workers=self.num_workers,
            generator=generator,
        )

    def train_dataloader(self) -> Batches:
        """Shuffled batches of the pooled training images, driven by torch's global generator."""
        return DataLoader(
            dataset=self.train_dataset,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=self._ends_in_one(self.train_dataset),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> Batches:
        """The validation images in order, or the test images if :attr:`val_is_test`."""
        return self._eval_loader(self._loaded.validation or self._loaded.test)

    def test_dataloader(self) -> Batches:
        """The test images in order."""
        return self._eval_loader(self._loaded.test)

    def predict_dataloader(self) -> Batches:
        """The test images in order."""
        return self.test_dataloader()

    def describe(self) -> dict[str, Any]:
        """Where the images come from and who has which, ready for JSON."""
        loaded = self._loaded
        sets = {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}
        if self.server_samples:
            sets["server"] = loaded.server
        return {
            "name": self.data_name,
            "provenance": self.provenance,
            "class_names": list(self.class_names),
            "images": {part: len(data) for part, data in sets.items() if data is not None},
            "class_counts": {part: data.class_counts().tolist() for part, data in sets.items() if data is not None},
            "clients": {
                str(client): loaded.train.subset(share).class_counts().tolist()
                for client, share in enumerate(loaded.shares)
            },
            "partition": str(self.partition),
            "image_shape": list(loaded.image_shape),
            "mean": list(loaded.preprocessing.mean),
            "std": list(loaded.preprocessing.std),
            "validated_on": "test" if self.val_is_test else "validation",
            "seed": self.seed,
        }

    @cached_property
    def _loaded(self) -> _Loaded:
        test_rng, validation_rng, fraction_rng, _, server_rng = _streams(self.seed)
        sets = self.source.load()
        train, test, validation = sets.train, sets.test, sets.validation
        if test is None:
            train, test = self._held_out(train, "test", self.test, test_rng)
        elif self.test > 0:
            raise UsageError(f"data.test must be 0 where the source has a test set, got {self.test}")
        if self.validation > 0:
            if validation is not None:
                raise UsageError(
                    f"data.validation must be 0 where the source has a validation set, got {self.validation}"
                )
            train, validation = self._held_out(train, "validation", self.validation, validation_rng)
        if self.group is not None:
            parts = {"train": train, "validation": validation, "test": test}
            check_no_leak(self.group, **{part: self._groups(data) for part, data in parts.items() if data is not None})
        if self.fraction < 1:
            train = train.subset(stratified_fraction(train.labels, self.fraction, fraction_rng))
        train, server = self._with_server(train, server_rng)
        shares = self.partition(train.labels, self.num_clients, partition_stream(self.seed), train.columns)
        shape = layout(train.pixels([0]), self.channels, self.size, self.interpolation).shape[1:]
        mean, std = self._mean_and_std(train, shape[0])
        preprocessing = Preprocessing(mean, std, self.channels, self.size, self.interpolation)
        return _Loaded(train, validation, test, shares, (shape[0], shape[1], shape[2]), preprocessing, server)

    def _with_server(self, train: LabelledImages, rng: np.random.Generator) -> tuple[LabelledImages, LabelledImages]:
        """The clients' images and the server's; without any for the server nothing is drawn."""
        if self.server_samples >= len(train):
            raise UsageError(
                f"data.server_samples must leave images to the clients, got {self.server_samples} of {len(train)}"
            )
        server = np.zeros(len(train), bool)
        if self.server_samples:
            server[rng.choice(len(train), self.server_samples, replace=False)] = True
            return train.subset(np.flatnonzero(~server)), train.subset(np.flatnonzero(server))
        return train, train.subset(np.flatnonzero(server))

    def _held_out(
        self, data: LabelledImages, part: str, share: float, rng: np.random.Generator
    ) -> tuple[LabelledImages, LabelledImages]:
        if share == 0:
            raise UsageError(f"data.{part} must be above 0 where the source has no {part} set, got {share}")
        if self.group is None:
            rest, held = stratified_split(data.labels, share, rng)
        else:
            rest, held = group_split(data.labels, self._groups(data), share, rng)
        return data.subset(rest), data.subset(held)

    def _groups(self, data: LabelledImages) -> np.ndarray:
        if self.group not in data.columns:
            raise UsageError(
                f"data.group must name a column of the data, got {self.group!r} of "
                f"{', '.join(data.columns) or 'none'} in {data.name}"
            )
        return data.columns[self.group]

    def _mean_and_std(self, train: LabelledImages, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.mean is None or self.std is None:
            return channel_statistics(train, self.channels)
        if {len(self.mean), len(self.std)} - {1, channels}:
            raise UsageError(
                f"data.mean and data.std must have 1 or {channels} values for images of {channels} channels, "
                f"got {list(self.mean)} and {list(self.std)}"
            )
        return tuple(self.mean), tuple(self.std)

    def _ends_in_one(self, dataset: PreparedImages) -> bool:
        return len(dataset) % self.batch_size == 1

    def _eval_loader(self, data: LabelledImages) -> Batches:
        as_trained = self._loaded.preprocessing
        preprocessing = replace(as_trained, interpolation=self.eval_interpolation, crop=self.eval_crop)
        dataset = PreparedImages(data, preprocessing)
        return DataLoader(
            dataset=dataset,
            batch_size=self.eval_batch_size,
            sampler=WholeOnEveryRank(dataset),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
