import numpy as np
import pytest
import torch

from fedsam.augmentation import BatchWise, SampleAugmentation, SampleWise
from fedsam.augmentation.policy import Policy


def test_sample_wise_is_the_sample_augmentation_in_its_own_size() -> None:
    image = torch.rand(5, 30, 30, generator=torch.Generator().manual_seed(1))
    label = (image > 0.5).to(torch.uint8)
    generator = torch.Generator().manual_seed(3)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    images, labels = SampleWise()(image, label, generator)
    wanted = SampleAugmentation(30)(image.numpy(), label.numpy(), np.random.default_rng(seed))
    np.testing.assert_array_equal(images.numpy(), wanted[0])
    np.testing.assert_array_equal(labels.numpy(), wanted[1])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.uint8


def test_sample_wise_keeps_the_size_of_slices_that_are_not_square() -> None:
    for seed in range(10):
        image, label = torch.rand(5, 24, 36), torch.zeros(5, 24, 36, dtype=torch.uint8)
        images, labels = SampleWise()(image, label, torch.Generator().manual_seed(seed))
        assert images.shape == labels.shape
        assert sorted(images.shape) == [5, 24, 36]


@pytest.mark.parametrize("kind", [SampleWise, BatchWise])
def test_no_step_changes_nothing(kind: type) -> None:
    still = kind(Policy(rot_flip=0, rotate=0, gamma=0, erase=0, operations=0))
    shape = (2, 5, 16, 16) if still.batched else (5, 16, 16)
    images, labels = torch.rand(shape), torch.randint(0, 3, shape, dtype=torch.uint8)
    changed, marked = still(images, labels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed, images)
    assert torch.equal(marked, labels)
