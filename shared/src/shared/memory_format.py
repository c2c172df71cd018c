"""How the numbers of an image batch stand in memory."""

import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """``(N, C, H, W)`` images with the channels of a pixel side by side, which convolutions on a CPU prefer.

    Inside ``torch.func.vmap``, which knows no memory formats, they are left as they are.
    """
    if torch._C._functorch.is_batchedtensor(images):
        return images
    return images.contiguous(memory_format=torch.channels_last)
