import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finelip.sources import pictures
from finelip.sources.pictures import opened

GREEN = np.array([30, 160, 90], np.uint8)


def _content(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _noise(height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def _pixels(content: bytes) -> np.ndarray:
    picture = opened(content)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_rgb_comes_back_as_it_was(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (_pixels(_content(Image.fromarray(_noise()), kind, **options)) == _noise()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation: int) -> None:
    seen = _noise()
    # What the camera stored: the inverse of what a viewer does for each value of the tag.
    stored = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.transpose(1, 0, 2),
        6: np.rot90(seen, 1),
        7: np.rot90(seen, 2).transpose(1, 0, 2),
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _content(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (_pixels(content) == seen).all()


def test_a_broken_exif_block_says_nothing_of_the_pixels() -> None:
    content = _content(Image.fromarray(_noise()), "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff broken")
    assert (_pixels(content) == _noise()).all()


def test_alpha_is_put_on_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., :3] = GREEN
    rgba[..., 3] = [0, 128, 255]
    expected = np.rint(GREEN * (128 / 255) + 255 * (127 / 255))
    seen = _pixels(_content(Image.fromarray(rgba)))
    assert (seen[:, 0] == 255).all()
    assert np.abs(seen[:, 1] - expected).max() <= 1
    assert (seen[:, 2] == GREEN).all()


def test_grey_with_alpha_is_put_on_white() -> None:
    seen = _pixels(_content(Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA")))
    assert seen.tolist() == [[[40] * 3, [255] * 3]]


def test_palettes_with_and_without_a_transparent_colour() -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    assert _pixels(_content(picture)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert _pixels(_content(picture, "PNG", transparency=0)).tolist() == [[[255] * 3, [200, 100, 50]]]
    assert _pixels(_content(picture, "GIF", transparency=1)).tolist() == [[[10, 20, 30], [255] * 3]]


def test_a_transparent_colour_of_rgb() -> None:
    picture = Image.fromarray(np.stack([GREEN, GREEN + 1])[None])
    assert _pixels(_content(picture, "PNG", transparency=tuple(GREEN.tolist()))).tolist() == [
        [[255] * 3, (GREEN + 1).tolist()]
    ]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert np.abs(_pixels(_content(ink, kind)).astype(int) - [255, 0, 0]).max() <= 3


def test_black_and_white_and_grey() -> None:
    bits = np.array([[True, False]])
    assert _pixels(_content(Image.fromarray(bits))).tolist() == [[[255] * 3, [0] * 3]]
    assert _pixels(_content(Image.fromarray(np.array([[7, 250]], np.uint8)))).tolist() == [[[7] * 3, [250] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    assert _pixels(_content(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 1, 100, 255]


def test_values_without_a_white_are_refused() -> None:
    floating = _content(Image.fromarray(np.array([[0.5, 3e4]], np.float32)), "TIFF")
    with pytest.raises(OSError, match=r"mode F must hold whole numbers from 0 to 65535"):
        opened(floating)
    wide = _content(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF")
    with pytest.raises(OSError, match=r"mode I must hold whole numbers"):
        opened(wide)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = _content(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(_pixels(content).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_file_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    content = _content(Image.fromarray(_noise(120, 160)), kind)
    file = tmp_path / f"half.{kind.lower()}"
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=rf"{file} cannot be read: "):
        opened(file)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a picture of 5 bytes cannot be read: it is none of AVIF, BMP"):
        opened(b"hello")
    with pytest.raises(OSError, match=r"the one cannot be read: it is none of"):
        opened(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "the one")
    with pytest.raises(FileNotFoundError, match=r"none.jpg is missing"):
        opened(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError, match=r"is a folder"):
        opened(tmp_path)


def _bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 13_500])  # refused by Pillow, and only by us
def test_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    with pytest.raises(OSError, match=r"cannot be read: .*pixels"):
        opened(_bomb(side))


def test_the_limit_counts_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _content(Image.fromarray(_noise(10, 10)))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    with pytest.raises(OSError, match=r"its 10 x 10 pixels are more than 99"):
        opened(content)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    assert opened(content).size == (10, 10)
