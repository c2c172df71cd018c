import pytest
import torch

from fedseca.augmentations import CoarseDropout, Dermoscopy, Transposed
from shared.errors import UsageError


def test_transposed_swaps_rows_and_columns_half_of_the_time() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    torch.manual_seed(0)
    swapped = [torch.equal(Transposed()(image), image.mT) for _ in range(200)]
    assert 70 < sum(swapped) < 130
    assert torch.equal(Transposed(p=0)(image), image)


def test_coarse_dropout_cuts_whole_squares() -> None:
    image = torch.full((3, 200, 200), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    for squares in (1, 8):
        black = (CoarseDropout(squares, squares, p=1)(image) == 0).float().mean(dim=(1, 2))
        assert len(set(black.tolist())) == 1
        assert float(black[0]) * 200 * 200 + 0.5 >= 256
        assert float(black[0]) * 200 * 200 <= 256 * squares + 0.5
    assert image.min() == 255
    assert torch.equal(CoarseDropout(p=0)(image), image)
    with pytest.raises(UsageError, match="CoarseDropout needs 0 <= fewest <= most, got 3 and 2"):
        CoarseDropout(3, 2)


def test_the_dermoscopy_recipe_keeps_shape_and_type_and_follows_the_seed() -> None:
    torch.manual_seed(3)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    recipe = Dermoscopy()
    for seed in range(40):
        torch.manual_seed(seed)
        first = recipe(image)
        torch.manual_seed(seed)
        assert torch.equal(recipe(image), first)
        assert (first.shape, first.dtype) == (image.shape, torch.uint8)
        assert not torch.equal(first, image)
