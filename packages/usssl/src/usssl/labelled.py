"""Labelled planes as a LightningDataModule: any source of images, a share of their labels, no shared patient."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.atomic import write_text
from shared.data.labelled_images import LabelledImages
from shared.data.prepared_images import Draw
from shared.data.sources import Source
from shared.data.splits import stratified_split
from shared.distributed import WholeOnEveryRank
from shared.errors import UsageError
from shared.runs import run_folder_of
from usssl.augmentation.classifier import ClassifierAugmentation
from usssl.augmentation.resizing import Resize, check_mode
from usssl.epoch_draws import SEED as DATA_SEED
from usssl.epoch_draws import EpochDraws
from usssl.fractions import SEED, fraction_table, label_fraction
from usssl.patients import check_patients, patient_split

Part = Literal["train", "validation", "test"]
Batches = DataLoader[tuple[Tensor, int]]
"""Loaders of :class:`Planes`: a batch is ``(B, 3, S, S)`` float32 and ``(B,)`` int64."""


class _Loaded(NamedTuple):
    whole: LabelledImages  # the training set before a share of it was chosen
    rows: np.ndarray
    validation: LabelledImages | None
    test: LabelledImages


class PlaneDataModule(LightningDataModule):
    """Training, validation and test planes; batches are ``(B, 3, S, S)`` float32 and ``(B,)`` int64.

    The order is: read the source; hold out test and validation images if it brings none, by patient where patients are
    known; check that nobody is in two sets; keep a share of the training labels.

    Args:
        source: Where the images come from; classes are numbered in its order.
        augment: For training images; ``None`` only resizes.
        image_size: Height and width S.
        resize: How pictures become square.
        batch_size: Training batch; a last one of a single image is left out.
        eval_batch_size: Validation and test batch.
        fraction: Percent of the training images to use.
        fraction_by: Draw them by image, as the reference, or whole patients.
        nested: Make smaller shares parts of larger ones; the reference does not.
        fraction_seed: Of that draw.
        patient: Column of the patient; a source without this column has unknown patients.
        validation: Share to hold out for validation; 0 takes the source's validation set, else the test set.
        test: Share to hold out as test set, for sources that bring none.
        num_workers: Loader processes.
        split_seed: Of the held-out shares.
        seed: Of order and augmentation; ``None``: as ``seed_everything``, or 73.

    Raises:
        UsageError: An option is out of range.
    """

    def __init__(
        self,
        source: Source,
        augment: ClassifierAugmentation | None = ClassifierAugmentation(),  # noqa: B008 - frozen
        image_size: int = 256,
        resize: Literal["reference", "stretch", "letterbox"] = "stretch",
        batch_size: int = 128,
        eval_batch_size: int = 256,
        fraction: float = 100.0,
        fraction_by: Literal["image", "patient"] = "image",
        nested: bool = False,
        fraction_seed: int = SEED,
        patient: str = "patient_id",
        validation: float = 0.0,
        test: float = 0.0,
        num_workers: int = 0,
        split_seed: int = DATA_SEED,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        seed = DATA_SEED if seed is None else seed
        for option, value, least in (
            ("image_size", image_size, 16),
            ("batch_size", batch_size, 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("fraction_seed", fraction_seed, 0),
            ("split_seed", split_seed, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UsageError(f"data.{option} must be at least {least}, got {value}")
        for option, share in (("validation", validation), ("test", test)):
            if not 0 <= share < 1:
                raise UsageError(f"data.{option} must lie in [0, 1), got {share}")
        if not 0 < fraction <= 100:
            raise UsageError(f"data.fraction must lie in (0, 100] percent, got {fraction:g}")
        if fraction_by not in ("image", "patient"):
            raise UsageError(f"data.fraction_by must be image or patient, got {fraction_by!r}")
        check_mode(resize)
        self.source, self.augment, self.image_size = source, augment, image_size
        self.resize: Resize = resize
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.fraction, self.fraction_by, self.nested, self.fraction_seed = fraction, fraction_by, nested, fraction_seed
        self.patient, self.validation, self.test = patient, validation, test
        self.num_workers, self.split_seed, self.seed = num_workers, split_seed, seed

    def setup(self, stage: str | None = None) -> None:
        """Read, split and choose; when a run is fitted, its folder receives the chosen images."""
        _ = self._loaded
        trainer = self.trainer
        folder = run_folder_of(trainer) if stage == "fit" and trainer is not None else None
        if folder is not None and trainer is not None and trainer.is_global_zero:
            self.write_selection(folder)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels: sorted names of the training set, or the source's own order."""
        return self._loaded.whole.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_counts(self) -> list[int]:
        """Images of each class in the whole training set, before a share of it is chosen."""
        return self._loaded.whole.class_counts().tolist()

    @property
    def provenance(self) -> str:
        """``real``, ``derived`` or ``synthetic``."""
        return self._loaded.whole.provenance

    @property
    def data_name(self) -> str:
        """What the data are called."""
        return self._loaded.whole.name.removesuffix(" train")

    @property
    def val_is_test(self) -> bool:
        """Whether :meth:`val_dataloader` gives the test set, so that its metrics must be called ``test/...``."""
        return self._loaded.validation is None

    @property
    def selected(self) -> np.ndarray:
        """Ascending rows of the whole training set that are used."""
        return self._loaded.rows

    @cached_property
    def train_images(self) -> LabelledImages:
        """The training images that are used."""
        return self._loaded.whole.subset(self._loaded.rows)

    @property
    def whole(self) -> LabelledImages:
        """The training images before a share of them is chosen."""
        return self._loaded.whole

    def images(self, part: Part) -> LabelledImages:
        """The images of a part; ``validation`` gives the test images where :attr:`val_is_test`."""
        if part == "train":
            return self.train_images
        return self._loaded.test if part == "test" else (self._loaded.validation or self._loaded.test)

    def patients(self, part: Part) -> np.ndarray | None:
        """``(N,)`` patient of every image of a part, in the loader's order; ``None`` where they are unknown."""
        return self.images(part).columns.get(self.patient)

    def labels(self, part: Part) -> np.ndarray:
        """``(N,)`` int64 class of every image of a part."""
        return self.images(part).labels

    def write_selection(self, folder: Path) -> Path:
        """Write ``labels.csv``: which training images are used."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "labels.csv"
        write_text(file, fraction_table(self._loaded.whole, self.selected, (self.patient,)))
        return file

    def describe(self) -> dict[str, Any]:
        """What is trained and tested on, ready for JSON."""
        parts: tuple[Part, ...] = ("train", "test") if self.val_is_test else ("train", "validation", "test")
        known = {part: self.patients(part) for part in parts}
        return {
            "name": self.data_name,
            "provenance": self.provenance,
            "class_names": list(self.class_names),
            "images": {part: len(self.images(part)) for part in parts},
            "class_counts": {part: self.images(part).class_counts().tolist() for part in parts},
            "class_counts_of_all_labels": self.class_counts,
            "patients": {part: None if who is None else len(np.unique(who)) for part, who in known.items()},
            "fraction": self.fraction,
            "fraction_by": self.fraction_by,
            "nested": self.nested,
            "fraction_seed": self.fraction_seed,
            "validated_on": "test" if self.val_is_test else "validation",
            "image_size": self.image_size,
            "resize": self.resize,
            "split_seed": self.split_seed,
            "seed": self.seed,
        }

    def train_dataloader(self) -> Batches:
        """Shuffled training batches."""
        dataset = Planes(self.train_images, self.image_size, self.resize, self.augment)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochDraws(dataset, self.seed),
            drop_last=len(dataset) % self.batch_size == 1,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def plain_dataloader(self, part: Part) -> Batches:
        """The images of a part in order, resized and normalised only: for features and evaluation."""
        return self.loader_of(self.images(part))

    def loader_of(self, images: LabelledImages) -> Batches:
        """Any images in order, resized and normalised only."""
        dataset = Planes(images, self.image_size, self.resize, None)
        return DataLoader(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=WholeOnEveryRank(dataset),
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> Batches:
        """The validation images in order, or the test images where :attr:`val_is_test`."""
        return self.plain_dataloader("validation")

    def test_dataloader(self) -> Batches:
        """The test images in order."""
        return self.plain_dataloader("test")

    def predict_dataloader(self) -> Batches:
        """The test images in order."""
        return self.plain_dataloader("test")

    @cached_property
    def _loaded(self) -> _Loaded:
        sets = self.source.load()
        train, validation, test = sets.train, sets.validation, sets.test
        for part, given, share in (("test", test, self.test), ("validation", validation, self.validation)):
            if given is not None and share > 0:
                raise UsageError(f"data.{part} must be 0 where the source has a {part} set, got {share}")
        if test is None and self.test == 0:
            raise UsageError("data.test must be above 0 where the source has no test set, got 0")
        if len(train.class_names) < 2:
            raise UsageError(
                f"data.source must have at least two classes, {train.name} has {train.class_names[0]} alone"
            )
        if self.test + self.validation >= 1:
            raise UsageError(
                f"data.test and data.validation must sum to less than 1, got {self.test} and {self.validation}"
            )
        held = {part: share for part, share in (("test", self.test), ("validation", self.validation)) if share > 0}
        if held:
            parts = self._held_out(train, held)
            whole = train
            train = whole.subset(parts["train"])
            test = whole.subset(parts["test"]) if "test" in parts else test
            validation = whole.subset(parts["validation"]) if "validation" in parts else validation
        assert test is not None
        listed = {"train": train, "validation": validation, "test": test}
        known = {
            part: data.columns[self.patient] for part, data in listed.items() if data and self.patient in data.columns
        }
        check_patients(**known)
        patients = None
        if self.fraction_by == "patient":
            if "train" not in known:
                raise UsageError(
                    f"data.patient must name a column of the data where data.fraction_by is patient, got "
                    f"{self.patient!r} of {', '.join(train.columns) or 'none'} in {train.name}"
                )
            patients = known["train"]
        rows = label_fraction(train.labels, self.fraction, train.class_names, self.fraction_seed, self.nested, patients)
        return _Loaded(train, rows, validation, test)

    def _held_out(self, data: LabelledImages, shares: dict[str, float]) -> dict[str, np.ndarray]:
        if self.patient in data.columns:
            return patient_split(data.labels, data.columns[self.patient], shares, self.split_seed)
        rest, left, result = np.arange(len(data)), 1.0, {}
        for number, (part, share) in enumerate(shares.items()):
            rng = np.random.default_rng([self.split_seed, number])
            try:
                kept, held = stratified_split(data.labels[rest], share / left, rng)
            except UsageError as error:
                raise UsageError(f"data.{part} {share:g} of {len(data)} images: {error}") from error
            result[part], rest, left = rest[held], rest[kept], left - share
        return result | {"train": rest}


class Planes(Dataset[tuple[Tensor, int]]):
    """Items are ``((3, S, S) float32, label)``.

    An index is a :class:`~shared.data.prepared_images.Draw`, whose seed alone decides how the picture is changed, or an
    integer where nothing is.

    Args:
        data: The pictures.
        size: Height and width S.
        resize: How to get there.
        augment: ``None`` only resizes and normalises.
    """

    def __init__(self, data: LabelledImages, size: int, resize: Resize, augment: ClassifierAugmentation | None) -> None:
        self.data, self.size, self.resize, self.augment = data, size, resize, augment

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, int]:
        item = index.item if isinstance(index, Draw) else index
        pixels, label = self.data[item]
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
        if self.augment is None or not isinstance(index, Draw):
            return ClassifierAugmentation.plain(picture, self.size, self.resize), label
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(index.seed)
            return self.augment.changed(picture, self.size, self.resize), label
