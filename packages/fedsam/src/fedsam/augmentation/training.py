"""The augmentations as ``--data.augment`` takes them: torch tensors, and all chance from one torch generator."""

import numpy as np
import torch
from torch import Tensor

from fedsam.augmentation.batch import BatchAugmentation
from fedsam.augmentation.policy import Policy
from fedsam.augmentation.sample import SampleAugmentation


class SampleWise:
    """:class:`~fedsam.augmentation.sample.SampleAugmentation` of each window before it is resized, on the CPU.

    Args:
        policy: How often each step is taken.
    """

    batched = False

    def __init__(self, policy: Policy | None = None) -> None:
        self.augmentation = SampleAugmentation(size=None, policy=policy)

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A changed window ``(5, H, W)`` and its labels."""
        seed = int(torch.randint(2**62, (), generator=generator))
        image, label = self.augmentation(images.numpy(), labels.numpy(), np.random.default_rng(seed))
        # Posterising and gamma look up bytes, turns are views: torch wants arrays of its own.
        return torch.from_numpy(np.array(image, dtype=np.float32)), torch.from_numpy(np.array(label, dtype=np.uint8))


class BatchWise:
    """:class:`~fedsam.augmentation.batch.BatchAugmentation` of each batch after it was resized: several times faster.

    Args:
        policy: How often each step is taken.
    """

    batched = True

    def __init__(self, policy: Policy | None = None) -> None:
        self.augmentation = BatchAugmentation(policy)

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A changed batch ``(B, 5, S, S)`` and its labels."""
        images, labels = self.augmentation(images, labels, generator)
        return images, labels
