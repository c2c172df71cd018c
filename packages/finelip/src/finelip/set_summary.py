"""What a set of captioned pictures holds, counted from its files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from finelip.sources.pairs import SPLITS, PairSource
from finelip.tokenizer import vocabulary
from shared.text_table import text_table

SHORT_CONTEXT, LONG_CONTEXT = 77, 248
"""Slots of CLIP, and of CLIP with stretched positions."""


class SplitSummary(NamedTuple):
    """A split in numbers.

    Attributes:
        pairs: Captions.
        pictures: Pictures that they belong to.
        lengths: Mean, median, 95th percentile and largest number of tokens of a caption, start and end included.
        over_short: Share of the captions that have more than 77.
        over_long: Share of the captions that have more than 248.
        unreadable: Name and reason of every picture that cannot be opened; ``None`` where nobody tried.
    """

    pairs: int
    pictures: int
    lengths: dict[str, float]
    over_short: float
    over_long: float
    unreadable: dict[str, str] | None


class _Pictures(Dataset[tuple[str, str]]):
    """Opens a picture and gives its name and what went wrong, which may be nothing."""

    def __init__(self, source: PairSource, split: str, firsts: list[int]) -> None:
        self.source, self.split, self.firsts = source, split, firsts

    def __len__(self) -> int:
        return len(self.firsts)

    def __getitem__(self, place: int) -> tuple[str, str]:
        try:
            self.source.picture(self.split, self.firsts[place])
        except OSError as error:
            return self.source.pairs(self.split)[self.firsts[place]].name, " ".join(str(error).split())
        return "", ""


def summarised(source: PairSource, open_pictures: bool = True, workers: int = 0) -> dict[str, SplitSummary]:
    """Count every split that has pairs.

    Args:
        source: The set.
        open_pictures: Decode each picture once.
        workers: Processes for that; 0 does it here.

    Raises:
        UsageError: The set is not as published.
    """
    return {split: _counted(source, split, open_pictures, workers) for split in SPLITS if len(source.pairs(split))}


def _counted(source: PairSource, split: str, open_pictures: bool, workers: int) -> SplitSummary:
    pairs = source.pairs(split)
    lengths = np.empty(len(pairs), np.int64)
    firsts: dict[int, int] = {}
    for place, pair in enumerate(tqdm(pairs, f"captions of {split}", unit="caption", disable=None)):
        lengths[place] = len(vocabulary().encode(pair.caption)) + 2  # start and end
        firsts.setdefault(pair.image_id, place)
    unreadable: dict[str, str] | None = None
    if open_pictures:
        pictures = DataLoader(
            _Pictures(source, split, list(firsts.values())), batch_size=16, collate_fn=list, num_workers=workers
        )
        progress = tqdm(total=len(firsts), desc=f"pictures of {split}", unit="picture", disable=None)
        unreadable = {}
        for batch in pictures:
            unreadable |= {name: reason for name, reason in batch if reason}
            progress.update(len(batch))
        progress.close()
    return SplitSummary(
        pairs=len(pairs),
        pictures=len(firsts),
        lengths={
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": float(lengths.max()),
        },
        over_short=float((lengths > SHORT_CONTEXT).mean()),
        over_long=float((lengths > LONG_CONTEXT).mean()),
        unreadable=unreadable,
    )


def summary_table(summary: Mapping[str, SplitSummary]) -> str:
    """The numbers as a terminal shows them."""
    header = ["split", "pairs", "pictures", "tokens: mean", "median", "p95", "max", "> 77", "> 248", "unreadable"]
    return text_table(
        header,
        [
            [
                split,
                f"{part.pairs:,}",
                f"{part.pictures:,}",
                f"{part.lengths['mean']:.1f}",
                *(f"{part.lengths[name]:.0f}" for name in ("median", "p95", "max")),
                f"{100 * part.over_short:.1f} %",
                f"{100 * part.over_long:.1f} %",
                "not opened" if part.unreadable is None else str(len(part.unreadable)),
            ]
            for split, part in summary.items()
        ],
    )


def summary_facts(summary: Mapping[str, SplitSummary]) -> dict[str, Any]:
    """The numbers ready for JSON."""
    return {split: part._asdict() for split, part in summary.items()}
