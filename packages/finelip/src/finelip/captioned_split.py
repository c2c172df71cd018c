"""The pairs of one split, tokenised once and given a batch at a time."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Compose

from finelip.epoch_batches import PairBatch
from finelip.sources.pairs import Pair, PairSource
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

BLOCK = 1024
"""Texts that are tokenised together."""


class TokenTable:
    """Token ids of many texts, one after the other in 16 bits each: a million long captions take 0.4 GB.

    Args:
        texts: What to tokenise.
        context_length: Slots of a text; of a longer one the first are kept and the last is the end token.

    Example:
        >>> table = TokenTable(["a cat", "a dog on a mat"], 5)
        >>> table.lengths.tolist(), table.truncated, table.padded([0], 5).tolist()
        ([4, 5], 1, [[49406, 320, 2368, 49407, 0]])
    """

    def __init__(self, texts: Sequence[str], context_length: int) -> None:
        tokenizer = LongTokenizer(context_length)
        self.truncated = 0
        rows: list[np.ndarray] = []
        for first in range(0, len(texts), BLOCK):
            ids, lengths, truncated = tokenizer(texts[first : first + BLOCK])
            rows += [row[:used].astype(np.uint16) for row, used in zip(ids.numpy(), lengths.tolist(), strict=True)]
            self.truncated += int(truncated.sum())
        self.lengths = np.array([len(row) for row in rows], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.tokens = np.concatenate(rows)

    def padded(self, items: Sequence[int], length: int) -> Tensor:
        """``(B, length)`` int64 ids, zeros after the end token.

        Args:
            items: Texts.
            length: Slots, at least those that the longest of them uses.
        """
        ids = np.zeros((len(items), length), np.int64)
        for row, item in enumerate(items):
            ids[row, : self.lengths[item]] = self.tokens[self.starts[item] : self.starts[item + 1]]
        return torch.from_numpy(ids)


class Unreadable(list[tuple[int, str]]):
    """Indices and messages of pictures of a batch that could not be read."""


class CaptionedSplit(Dataset[dict[str, object]]):
    """Pairs of a split as a model wants them, a batch at a time.

    Args:
        source: Where they come from.
        split: Which of its splits.
        context_length: Slots of a caption.
        image_size: Side of the pictures.
        limit: Take so many of the first pairs; ``None``: all.
        keep_bytes: Keep prepared pictures in memory where all of them take no more than this.
        fill: Put another pair of the batch in place of one that cannot be read, instead of leaving it out: several
            processes must have equally many.

    Raises:
        UsageError: There is no such split, or a caption is empty.
    """

    def __init__(
        self,
        source: PairSource,
        split: str,
        context_length: int,
        image_size: int,
        limit: int | None = None,
        keep_bytes: int = 0,
        fill: bool = False,
    ) -> None:
        pairs: Sequence[Pair] = source.pairs(split)[:limit]
        if not pairs:
            without = "; --trainer.limit_val_batches 0 trains without" if split == "validation" else ""
            raise UsageError(f"data.source must have pairs to use for {split}, but {source.name} has none{without}")
        for pair in pairs:
            if not pair.caption.strip():
                raise UsageError(
                    f"data.source must have captions with words, but {source.name} has none for {pair.name}"
                )
        self.source = source
        self.split = split
        self.image_size = image_size
        self.names = [pair.name for pair in pairs]
        self.image_ids = torch.tensor([pair.image_id for pair in pairs])
        self.captions = TokenTable([pair.caption for pair in pairs], context_length)
        short = [pair.short for pair in pairs if pair.short and pair.short.strip()]
        self.shorts = TokenTable(short, context_length) if len(short) == len(pairs) else None
        self.fill = fill
        keeps = len(pairs) * image_size**2 * 3 <= keep_bytes
        self.kept: dict[int, np.ndarray] | None = {} if keeps else None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _steps(self) -> tuple[Compose, Tensor, Tensor]:
        """open_clip's transform for evaluation in two parts: on the picture, and mean and std of its channels."""
        transform = image_transform(self.image_size, is_train=False, resize_mode="shortest")
        *geometry, _to_tensor, normalise = transform.transforms
        return Compose(geometry), torch.tensor(normalise.mean), torch.tensor(normalise.std)

    def pixels(self, item: int) -> np.ndarray:
        """``(S, S, 3)`` uint8: shortest side resized, centre cut out, RGB.

        Raises:
            OSError: The picture cannot be read.
        """
        if self.kept is not None and item in self.kept:
            return self.kept[item]
        picture: Image.Image = self._steps[0](self.source.picture(self.split, item))
        pixels = np.array(picture)
        if self.kept is not None:
            self.kept[item] = pixels
        return pixels

    def __getitem__(self, batch: PairBatch) -> dict[str, object]:
        """A batch.

        Returns:
            ``image`` (B, 3, S, S) float32 normalised, ``ids`` (B, L) int64 zero padded, ``lengths`` (B,), ``pair_id``
            (B,), and ``short_ids`` (B, L') where the source has short captions; ``unreadable`` is left to the loader.
        """
        items: list[int] = []
        pictures: list[np.ndarray] = []
        unreadable = Unreadable()
        for item in batch.items:
            try:
                pictures.append(self.pixels(item))
                items.append(item)
            except OSError as error:
                unreadable.append((item, " ".join(str(error).split())))
        if not items:
            return {"unreadable": unreadable}
        if self.fill:
            for place in range(len(unreadable)):
                items.append(items[place])
                pictures.append(pictures[place])
        _, mean, std = self._steps
        whole = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(255)
        content: dict[str, object] = {
            "image": whole.sub_(mean[:, None, None]).div_(std[:, None, None]),
            "ids": self.captions.padded(items, batch.length),
            "lengths": torch.from_numpy(self.captions.lengths[items]),
            "pair_id": self.image_ids[items],
            "unreadable": unreadable,
        }
        if self.shorts is not None:
            content["short_ids"] = self.shorts.padded(items, int(self.shorts.lengths[items].max()))
        return content
