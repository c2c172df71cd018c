"""Any source of captioned pictures as a LightningDataModule."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from finelip.captioned_split import CaptionedSplit
from finelip.epoch_batches import EpochBatches
from finelip.sources.pairs import PairSource
from shared.errors import UsageError

SEED = 71
"""The seed of data that are given none: the authors'."""

SPLITS = ("train", "validation", "test")


class PairLoader(DataLoader[dict[str, Tensor]]):
    """Batches of a split, without what the data module notes of pictures that could not be read.

    Args:
        data: The data module, which is told of them.
        split: The split.
        batches: Which pairs make a batch.
        training: Refuse a batch of which no picture can be read; else it is skipped.
        workers: Loader processes.
    """

    def __init__(
        self, data: "CaptionDataModule", split: str, batches: EpochBatches, training: bool, workers: int
    ) -> None:
        super().__init__(
            data.dataset(split),  # type: ignore[arg-type]
            batch_size=None,
            sampler=batches,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.told = data
        self.split = split
        self.training = training

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            failed = batch.pop("unreadable")
            if failed:
                self.told.note_unreadable(self.split, failed)  # type: ignore[arg-type]
            if batch:
                yield batch
            elif self.training:
                raise UsageError(
                    f"data.batch_size must leave a readable picture in every batch, got {self.told.batch_size}"
                )


class CaptionDataModule(LightningDataModule):
    """Training, validation and test pairs of a source, with the picture transform of open_clip.

    A batch is a dict: ``image`` (B, 3, S, S) float32 normalised, ``ids`` (B, L) int64 zero padded and cut to the
    longest, ``lengths`` (B,), ``pair_id`` (B,), equal for captions of one picture, and ``short_ids`` where the source
    has short captions. Pictures are resized by their shortest side and cropped in the middle, in training too.
    Captions are tokenised once. The order of training follows from the seed and the epoch alone, so a run of 2 + 2
    epochs is a run of 4.

    A picture that cannot be read is left out with its caption (with several processes another pair of the batch takes
    its place) and counted. Captions of more than ``context_length`` tokens lose their end, are counted, and warned of
    once.

    Args:
        source: Where pairs come from.
        context_length: Slots of a caption.
        image_size: Side of the pictures in pixels.
        batch_size: Pairs of a training batch, on every process.
        eval_batch_size: Pairs of a validation or test batch.
        workers: Loader processes.
        max_unreadable: Largest share of a split's pictures that may be unreadable.
        bucket: Make batches of captions of similar length, see :class:`~finelip.epoch_batches.EpochBatches`.
        seed: Of the order of training; ``None``: 71.
        train_pairs: Use so many of the first training pairs; ``None``: all.
        validation_pairs: Likewise.
        test_pairs: Likewise.
        further_tests: Sets whose test pairs are tested too, after those of ``source``; each is scored for itself.
        keep_mib: Keep prepared pictures of a split in memory where they take no more MiB and there are no workers.

    Raises:
        UsageError: An option is out of range.

    Example:
        >>> from finelip.late_detail.source import LateDetail
        >>> data = CaptionDataModule(LateDetail(pairs=8), image_size=96, batch_size=4)
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["image"].shape), batch["ids"].shape[1] == batch["lengths"].max()
        ((4, 3, 96, 96), tensor(True))
    """

    def __init__(
        self,
        source: PairSource,
        context_length: int = 248,
        image_size: int = 224,
        batch_size: int = 128,
        eval_batch_size: int = 64,
        workers: int = 0,
        max_unreadable: float = 0.01,
        bucket: bool = True,
        seed: int | None = None,
        train_pairs: int | None = None,
        validation_pairs: int | None = None,
        test_pairs: int | None = None,
        keep_mib: int = 256,
        further_tests: list[PairSource] | None = None,
    ) -> None:
        super().__init__()
        for option, value, least in (
            ("context_length", context_length, 2),
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("workers", workers, 0),
            ("seed", seed, 0),
            ("train_pairs", train_pairs, 2),
            ("validation_pairs", validation_pairs, 1),
            ("test_pairs", test_pairs, 1),
            ("keep_mib", keep_mib, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"data.{option} must be at least {least}, got {value}")
        if not 0 <= max_unreadable <= 1:
            raise UsageError(f"data.max_unreadable must lie in [0, 1], got {max_unreadable}")
        self.source = source
        self.context_length = context_length
        self.image_size = image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.max_unreadable = max_unreadable
        self.bucket = bucket
        self.seed = SEED if seed is None else seed
        self.limits = dict(zip(SPLITS, (train_pairs, validation_pairs, test_pairs), strict=True))
        self.keep_bytes = 0 if workers else keep_mib * 2**20
        self.unreadable: dict[str, int] = {}
        """Pictures of each used split that could not be read so far."""
        self.truncated: dict[str, int] = {}
        """Captions of each used split that were too long."""
        self.further = [
            CaptionDataModule(each, context_length, image_size, eval_batch_size=eval_batch_size, workers=workers)
            for each in further_tests or ()
        ]
        """A data module for each further set."""
        names = [source.name, *(each.source.name for each in self.further)]
        if len(set(names)) < len(names):
            raise UsageError(f"data.further_tests must have names of their own (option name), got {', '.join(names)}")
        self._datasets: dict[str, CaptionedSplit] = {}
        self._failed: dict[str, set[int]] = {}

    @property
    def provenance(self) -> str:
        """``real``, ``derived`` or ``synthetic``."""
        return self.source.provenance

    def setup(self, stage: str | None = None) -> None:
        """Tokenise the captions that the stage needs; a second call does nothing."""
        wanted = {"fit": SPLITS[:2], "validate": SPLITS[1:2], "test": SPLITS[2:], "predict": SPLITS[2:]}
        for split in wanted.get(stage or "", SPLITS):
            # A source without validation pairs is trained on with trainer.limit_val_batches 0.
            if stage == "fit" and split == "validation" and self.trainer and self.trainer.limit_val_batches == 0:
                continue
            self.dataset(split)

    def dataset(self, split: str) -> CaptionedSplit:
        """The pairs of ``train``, ``validation`` or ``test``.

        Raises:
            UsageError: The source has none there, or a caption is empty.
        """
        if split not in self._datasets:
            fill = split == "train" and torch.distributed.is_available() and torch.distributed.is_initialized()
            data = CaptionedSplit(
                *(self.source, split, self.context_length, self.image_size),
                *(self.limits[split], self.keep_bytes, fill),
            )
            self._datasets[split] = data
            self.truncated[split] = data.captions.truncated
            self.unreadable[split] = 0
            self._failed[split] = set()
            if data.captions.truncated:
                warnings.warn(
                    f"{data.captions.truncated} of {len(data)} {split} captions of {self.source.name} have more than "
                    f"{self.context_length} tokens and lose their end",
                    stacklevel=2,
                )
        return self._datasets[split]

    def note_unreadable(self, split: str, failed: list[tuple[int, str]]) -> None:
        """Count pictures that could not be read, each once.

        Args:
            split: Theirs.
            failed: Indices and messages.

        Raises:
            UsageError: They are too many.
        """
        data, known = self._datasets[split], self._failed[split]
        known |= {item for item, _ in failed}
        self.unreadable[split] = len(known)
        if len(known) > self.max_unreadable * len(data):
            item, message = failed[0]
            raise UsageError(
                f"data.max_unreadable must be at least the share of unreadable pictures, but of {len(data)} {split} "
                f"pictures {len(known)} cannot be read so far, {data.names[item]} among them ({message}); "
                f"got {self.max_unreadable:g}"
            )

    def train_dataloader(self) -> PairLoader:
        """Every training pair once per epoch, in an order of its own."""
        lengths = self.dataset("train").captions.lengths
        batches = EpochBatches(lengths, self.batch_size, self.seed, self.bucket)
        if not len(batches):
            raise UsageError(
                f"data.source must have a training pair for every process, but {self.source.name} has {len(lengths)}"
            )
        return PairLoader(self, "train", batches, True, self.workers)

    def val_dataloader(self) -> PairLoader:
        """The validation pairs in order, all of them on every process."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> PairLoader | list[PairLoader]:
        """The test pairs in order, all of them on every process; where there are further sets, a loader of each."""
        own = self._eval_loader("test")
        return [own, *(each._eval_loader("test") for each in self.further)] if self.further else own

    @property
    def further_tests(self) -> list[PairSource]:
        """The further sets."""
        return [each.source for each in self.further]

    def predict_dataloader(self) -> PairLoader:
        """The test pairs in order."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> PairLoader:
        lengths = self.dataset(split).captions.lengths
        batches = EpochBatches(lengths, self.eval_batch_size, self.seed, bucket=False, shuffle=False)
        return PairLoader(self, split, batches, False, self.workers)

    def describe(self) -> dict[str, Any]:
        """What was used so far, ready for JSON."""
        used = self._datasets
        return {
            "name": self.source.name,
            "provenance": self.provenance,
            "pairs": {split: len(data) for split, data in used.items()},
            "tokens": {split: float(np.median(data.captions.lengths)) for split, data in used.items()},
            "truncated": dict(self.truncated),
            "unreadable": dict(self.unreadable),
            "context_length": self.context_length,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "bucket": self.bucket,
            "seed": self.seed,
            **({"further_tests": [each.describe() for each in self.further]} if self.further else {}),
        }
