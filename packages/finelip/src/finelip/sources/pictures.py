"""One policy for opening pictures, whatever their files hold."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. The rest of Pillow's formats stay out: some of them call other programs."""
SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""How names of picture files end, in lower case."""
MOST_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded: Pillow's own limit, half a gigabyte in RGB."""


def opened(file: str | Path | bytes, where: str | None = None) -> Image.Image:
    """Decode a picture completely, upright and in RGB.

    - An EXIF orientation is applied; an EXIF block that cannot be read counts as none.
    - Transparency (RGBA, LA, palettes and PNGs with a transparent colour) is put on white.
    - Palette, CMYK, YCbCr, grey and black-and-white pictures become RGB.
    - 16-bit grey is divided by 257; whole numbers of more bits, signed ones and floating point are refused.
    - Of an animation or of several pages the first is taken.

    Args:
        file: Its path, or its content.
        where: What to call it in an error; without it the path.

    Returns:
        The picture; nothing of the file stays open.

    Raises:
        OSError: It is missing, a folder, damaged, cut short, of an unknown format, of more than :data:`MOST_PIXELS` or
            of values without a defined white.
    """
    where = where or (f"a picture of {len(file):,} bytes" if isinstance(file, bytes) else str(file))
    if not isinstance(file, bytes) and not Path(file).is_file():
        if Path(file).is_dir():
            raise IsADirectoryError(f"{where} is a folder")
        raise FileNotFoundError(f"{where} is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that nobody asks for, and of sizes that are checked here
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise Image.DecompressionBombError(
                        f"its {picture.width} x {picture.height} pixels are more than {MOST_PIXELS:,}"
                    )
                picture.load()
                return _rgb(_upright(picture))
    except Image.UnidentifiedImageError as error:
        raise OSError(f"{where} cannot be read: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders of nine formats, each with errors of its own
        raise OSError(f"{where} cannot be read: {error or type(error).__name__}") from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block fails in many ways, and says nothing of the pixels
        return picture


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        solid = Image.new("RGBA", picture.size, "white")
        solid.alpha_composite(picture.convert("RGBA"))
        picture = solid
    # Of a picture that is RGB already a copy is made: plain pixels, without the file, its metadata and its frames.
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {picture.mode} must hold whole numbers from 0 to 65535 ({values.dtype})")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
