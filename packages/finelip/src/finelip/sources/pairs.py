"""Pictures with captions: what every reader gives."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from PIL import Image

from shared.errors import UsageError

SPLITS = ("train", "validation", "test")


def checked_split(split: str) -> str:
    """The name, once it is known to be one of :data:`SPLITS`.

    Raises:
        UsageError: It is none of them.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


class Pair(NamedTuple):
    """A caption and its picture.

    Attributes:
        name: What people call the picture: its path below the root of the set, or a number of a scene.
        caption: The long text.
        short: A short one, where the set has it.
        image_id: Equal for captions of one picture, counted from 0 within a split.
    """

    name: str
    caption: str
    short: str | None
    image_id: int


class PairSource(Protocol):
    """A set of captioned pictures, read on demand; safe to send to a worker process.

    Readers inherit from it, so that options may name them without their modules; for Python any object of this form
    will do.

    Attributes:
        name: Of the set, in one word.
        provenance: What the pictures are.
    """

    name: str
    provenance: Literal["real", "derived", "synthetic"]

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of ``train``, ``validation`` or ``test``, in a fixed order; empty where the set has no such split.

        Raises:
            UsageError: The files are missing or not as published.
        """
        ...

    def picture(self, split: str, index: int) -> Image.Image:
        """The picture of a pair, upright and in RGB; what a file holds besides is settled by ``sources.pictures``.

        Raises:
            OSError: It cannot be read.
        """
        ...
