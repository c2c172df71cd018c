"""One size for pictures of any shape: the reference's resize by the short side, stretching, or black margins."""

from typing import Literal

from PIL import Image

from shared.errors import UsageError

Resize = Literal["reference", "stretch", "letterbox"]
MODES = ("reference", "stretch", "letterbox")


def resized(picture: Image.Image, size: int, mode: Resize) -> Image.Image:
    """The picture with height and width ``size``, bicubic; all three modes agree on square pictures.

    Args:
        picture: Of any size.
        size: Pixels.
        mode: ``reference`` makes the short side ``size`` and keeps the ratio, as torchvision's ``Resize(size)`` does,
            so that only square pictures make batches; ``stretch`` forgets the ratio; ``letterbox`` fits the picture in
            and adds black margins.

    Raises:
        UsageError: ``reference`` meets a picture that is not square.
    """
    width, height = picture.size
    if mode == "reference" and width != height:
        raise UsageError(
            f"data.resize must be stretch or letterbox where pictures are not square, got reference and a picture of "
            f"{height} x {width}"
        )
    if mode != "letterbox" or width == height:
        return picture.resize((size, size), Image.Resampling.BICUBIC)
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    result = Image.new(picture.mode, (size, size))
    result.paste(picture.resize(inner, Image.Resampling.BICUBIC), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return result


def check_mode(mode: str) -> None:
    """Raise a UsageError unless the mode is one of :data:`MODES`."""
    if mode not in MODES:
        raise UsageError(f"data.resize must be one of {', '.join(MODES)}, got {mode!r}")
