"""What a recipe of views must give: a function of PIL pictures for loader workers, one of batches for the device."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from usssl.augmentation.resizing import Resize

PilViews = Callable[[Sequence[Image.Image]], tuple[Tensor, ...]]
BatchViews = Callable[[Sequence[Tensor], Sequence[int]], tuple[Tensor, ...]]


class ViewRecipe(ABC):
    """A recipe of the images that a method is trained on.

    Both forms draw from the same distributions; they agree in law, not in every pixel.

    Attributes:
        sources: Frames that one item needs: 2 if the two views may come from two frames of a clip, else 1.
        resizes_first: Whether pictures are brought to their final size before anything else.
    """

    sources: int = 1
    resizes_first: bool = False

    @abstractmethod
    def pil(self, size: int, resize: Resize) -> PilViews:
        """The recipe on PIL pictures in mode RGB; all chance comes from torch's global generator.

        The function takes ``sources`` pictures (one for both views, or one for each) and gives ``(3, S, S)`` float32
        images, normalised.
        """

    @abstractmethod
    def batched(self, size: int) -> BatchViews:
        """The recipe on batches ``(B, 1 or 3, H, W)`` uint8, on their device.

        The function takes one batch for both views or one for each, and a seed for each of the ``B`` items, which alone
        decides how the item is changed; noise alone depends on the batch. It gives ``(B, 3, S, S)`` float32 images.
        """


def item_uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """``(B, count)`` float64 in [0, 1): a stream of its own for every item, whatever batch it is in."""
    rows = [np.random.Generator(np.random.PCG64(int(seed))).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def noise_generator(seeds: Sequence[int], device: torch.device) -> torch.Generator:
    """For values of every pixel, where a stream for each item would be slow: seeded by all items of the batch."""
    state = np.random.SeedSequence([int(seed) for seed in seeds]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
