"""``late-detail`` as a set of captioned pictures."""

from collections.abc import Sequence
from typing import Literal

from PIL import Image

from finelip.late_detail.families import MEMBERS, CaptionedScene, draw_family
from finelip.late_detail.rendering import render
from finelip.sources.pairs import Pair, PairSource
from shared.errors import UsageError


class LateDetail(PairSource):
    """Generated pictures with long captions, which tell the four pictures of a family apart only after token 77.

    A model that reads 77 tokens can at best guess within the family. Pair ``i`` of a split is member ``i % 4`` of
    family ``i // 4`` and the same whatever the number of pairs. The short caption is the first sentence.

    Args:
        pairs: Training pairs.
        validation_pairs: Validation pairs; their families have combinations of shape and colour that are not trained.
        test_pairs: Test pairs, likewise.
        size: Height and width of the pictures in pixels.
        seed: Of everything.

    Raises:
        UsageError: A number of pairs is no positive multiple of 4, the pictures are smaller than 48 pixels, or the
            seed is negative.

    Example:
        >>> source = LateDetail(pairs=8)
        >>> len(source.pairs("train")), source.picture("train", 0).size
        (8, (96, 96))
    """

    name = "late-detail"
    provenance: Literal["synthetic"] = "synthetic"

    def __init__(
        self, pairs: int = 4000, validation_pairs: int = 400, test_pairs: int = 400, size: int = 96, seed: int = 73
    ) -> None:
        counts = {"pairs": pairs, "validation_pairs": validation_pairs, "test_pairs": test_pairs}
        for option, count in counts.items():
            if count < MEMBERS or count % MEMBERS:
                raise UsageError(f"data.source.{option} must be a positive multiple of {MEMBERS}, got {count}")
        if size < 48:
            raise UsageError(f"data.source.size must be at least 48, got {size}")
        if seed < 0:
            raise UsageError(f"data.source.seed must not be negative, got {seed}")
        self.counts = dict(zip(("train", "validation", "test"), counts.values(), strict=True))
        self.size = size
        self.seed = seed
        self._scenes: dict[str, list[CaptionedScene]] = {}

    def scenes(self, split: str) -> list[CaptionedScene]:
        """The scenes of a split; none where there is no such split."""
        if split not in self._scenes:
            families = range(self.counts.get(split, 0) // MEMBERS)
            self._scenes[split] = [each for family in families for each in draw_family(self.seed, split, family)]
        return self._scenes[split]

    def pairs(self, split: str) -> Sequence[Pair]:
        """See :class:`~finelip.sources.pairs.PairSource`."""
        return [
            Pair(f"{split}-{index // MEMBERS:05d}-{index % MEMBERS}", caption, caption.partition(". ")[0] + ".", index)
            for index, (_, caption) in enumerate(self.scenes(split))
        ]

    def picture(self, split: str, index: int) -> Image.Image:
        """See :class:`~finelip.sources.pairs.PairSource`."""
        return Image.fromarray(render(self.scenes(split)[index].scene, self.size))
