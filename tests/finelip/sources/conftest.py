"""Pictures that can be told apart, as files and as bytes."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finelip.sources.pairs import PairSource


def _content(shade: int, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def picture_bytes() -> Callable[..., bytes]:
    """``picture_bytes(shade, kind)`` is the file of a small picture of one shade of grey."""
    return lambda shade, kind="PNG": _content(shade, kind)


@pytest.fixture
def put_picture() -> Callable[[Path, int], Path]:
    """``put_picture(path, shade)`` writes one, folders included."""

    def put(path: Path, shade: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = Image.registered_extensions()[path.suffix.lower()]
        path.write_bytes(_content(shade, kind))
        return path

    return put


@pytest.fixture
def shades() -> Callable[[PairSource, str], list[int]]:
    """``shades(source, split)`` are the shades of the pictures of its pairs."""

    def seen(source: PairSource, split: str) -> list[int]:
        pictures = [source.picture(split, index) for index in range(len(source.pairs(split)))]
        assert all(picture.mode == "RGB" for picture in pictures)
        return [round(float(np.asarray(picture).mean())) for picture in pictures]

    return seen
