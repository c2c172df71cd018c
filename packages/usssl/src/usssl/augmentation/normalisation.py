"""The last step of every recipe: bytes to ImageNet-normalised float32 with three channels."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalised_batch(images: Tensor, out: Tensor | None = None) -> Tensor:
    """``(B, 3, H, W)`` float32 from ``(B, 1 or 3, H, W)`` on the scale 0 to 255; one channel is repeated here.

    Args:
        images: Of any type.
        out: Where to write.
    """
    images = images.float()
    if out is None:
        out = torch.empty((len(images), 3, *images.shape[-2:]), dtype=torch.float32, device=images.device)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        shift = torch.tensor(-mean / std, device=images.device)
        torch.add(shift, images[:, min(channel, images.shape[1] - 1)], alpha=1 / (255 * std), out=out[:, channel])
    return out


def normalised_picture(picture: Image.Image) -> Tensor:
    """``(3, H, W)`` float32 of one picture."""
    pixels = np.array(picture.convert("RGB"))
    return normalised_batch(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())[0].contiguous()
