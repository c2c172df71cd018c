"""From stored bytes to network input, one batch at a time: layout, channels, size, normalisation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from shared.data.labelled_images import LabelledImages, Pixels
from shared.errors import UsageError

Interpolation = Literal["bilinear", "bicubic"]

_BLOCK = 512  # pictures per step of the pass over all pixels: bounded memory


def layout(
    pixels: Pixels,
    channels: int | None = None,
    size: int | None = None,
    interpolation: Interpolation = "bilinear",
    crop: bool = False,
) -> Tensor:
    """Bring pictures into one shape.

    Args:
        pixels: ``(B, H, W, C)`` uint8, or ``B`` arrays ``(H, W, C)`` of any sizes.
        channels: 1 or 3: grey is repeated, colour becomes luma (ITU-R 601-2); ``None`` leaves them.
        size: Height and width after resizing with antialiasing; ``None`` leaves them.
        interpolation: How to resize.
        crop: Cut the ``size`` pixels in the middle out instead of resizing; smaller pictures get a black margin.

    Returns:
        ``(B, C, H, W)`` uint8.

    Raises:
        UsageError: Sizes or channels differ between pictures and nothing was asked for that makes them equal.
    """
    if isinstance(pixels, list):
        single = [layout(picture[None], channels, size, interpolation, crop) for picture in pixels]
        shapes = {tuple(picture.shape[1:]) for picture in single}
        if len(shapes) > 1:
            raise UsageError(
                "data.image_size and data.channels must be set where images differ, "
                f"got (channels, height, width) of {' and '.join(map(str, sorted(shapes)[:2]))}"
            )
        return torch.cat(single)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if channels == 1:
        images = F.rgb_to_grayscale(images, num_output_channels=1)
    if size is not None and images.shape[-2:] != (size, size):
        if crop:
            images = F.center_crop(images, [size, size])
        else:
            images = F.resize(images, [size, size], interpolation=InterpolationMode(interpolation), antialias=True)
    return images.expand(-1, channels, -1, -1) if channels is not None else images


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    r"""Compute :math:`(x / 255 - \mu_c) / \sigma_c` in float32.

    Args:
        images: ``(B, C, H, W)`` uint8, in any memory layout; not modified.
        mean: One value per channel, or one for all.
        std: The same, positive.

    Returns:
        ``(B, C, H, W)`` float32, contiguous.
    """
    shift = 255 * torch.tensor(mean).view(-1, 1, 1)
    scale = 255 * torch.tensor(std).view(-1, 1, 1)
    return images.to(torch.float32, memory_format=torch.contiguous_format, copy=True).sub_(shift).div_(scale)


def channel_statistics(
    data: LabelledImages, channels: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, on the scale 0 to 1.

    Computed from the histogram of byte values in integers, so the result does not depend on order or machine.

    Args:
        data: The pictures, at their stored sizes.
        channels: As in :func:`layout`.

    Raises:
        UsageError: A channel has one value everywhere, so that nothing could be divided by its deviation.
    """
    histogram = sum(
        _byte_counts(data.pixels(np.arange(start, min(start + _BLOCK, len(data)))), channels)
        for start in range(0, len(data), _BLOCK)
    )
    assert isinstance(histogram, np.ndarray)
    means, deviations = [], []
    for channel, counts in enumerate(histogram.tolist()):
        pixels = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        spread = pixels * second - first * first
        if spread == 0:
            raise UsageError(
                f"data.mean and data.std must be given where a channel is constant, "
                f"{data.name} has {first // pixels} everywhere in channel {channel}"
            )
        means.append(first / pixels / 255)
        deviations.append(spread**0.5 / pixels / 255)
    return tuple(means), tuple(deviations)


def _byte_counts(pixels: Pixels, channels: int | None) -> np.ndarray:
    if isinstance(pixels, list):
        per_picture = [_byte_counts(picture[None], channels) for picture in pixels]
        if len({counts.shape for counts in per_picture}) > 1:
            raise UsageError("data.channels must be 1 or 3 where grey and colour images are mixed, got null")
        return np.sum(per_picture, axis=0)
    images = layout(pixels, channels).numpy()
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in images.transpose(1, 0, 2, 3)])
