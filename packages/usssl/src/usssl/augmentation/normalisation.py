"""The last step of every recipe: bytes to ImageNet-normalised float32 with three channels."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalised_batch(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` float32 from ``(B, 1 or 3, H, W)`` on the scale 0 to 255; one channel is repeated here."""
    mean = 255 * torch.tensor(MEAN, device=images.device).view(-1, 1, 1)
    scale = 1 / (255 * torch.tensor(STD, device=images.device).view(-1, 1, 1))
    result = torch.empty((len(images), 3, *images.shape[-2:]), dtype=torch.float32, device=images.device)
    return torch.mul(images, scale, out=result).sub_(mean * scale)


def normalised_picture(picture: Image.Image) -> Tensor:
    """``(3, H, W)`` float32 of one picture."""
    pixels = np.array(picture.convert("RGB"))
    return normalised_batch(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())[0].contiguous()
