import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsam.fusion import fuse_windows, padded_slices
from shared.errors import UsageError


@given(st.integers(1, 9), st.sampled_from([1, 3, 5, 7]), st.integers(1, 9), st.integers(0, 99))
def test_every_slice_is_the_mean_over_its_windows(depth: int, slices: int, batch: int, seed: int) -> None:
    windows = torch.randn(depth, slices, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sums, counts = torch.zeros(depth + slices - 1, 2, 3, dtype=torch.float64), torch.zeros(depth + slices - 1)
    for w in range(depth):
        for i in range(slices):
            sums[w + i] += windows[w, i]
            counts[w + i] += 1
    half = slices // 2
    expected = (sums / counts[:, None, None])[half : half + depth]
    assert torch.equal(torch.stack(list(fuse_windows(windows.split(batch), slices))), expected)


def test_constant_predictions_come_back() -> None:
    p = torch.rand(6, 2, 4)
    windows = p[padded_slices(6)].unfold(0, 5, 1).movedim(-1, 1)
    torch.testing.assert_close(torch.stack(list(fuse_windows([windows]))), p)


def test_windows_repeat_the_edges() -> None:
    assert padded_slices(4).unfold(0, 5, 1).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 3],
        [1, 2, 3, 3, 3],
    ]
    with pytest.raises(UsageError, match="slices must be odd and at least 1, got 4"):
        padded_slices(4, slices=4)
    with pytest.raises(UsageError, match="slices must be odd"):
        list(fuse_windows([torch.zeros(1, 2, 1)], slices=2))
