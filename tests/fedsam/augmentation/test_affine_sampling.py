import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsam.augmentation.affine_sampling import axes, bilinear, columns_inside, nearest, pixels, traced

S = 13
ENTRIES = st.sampled_from([-1.3, -1.0, -0.4, 0.0, 0.2, 1.0, 1.2])


def places(matrix: torch.Tensor) -> np.ndarray:
    """``(S, S, 2)`` by the definition: every pixel's centre times the matrix."""
    result = np.empty((S, S, 2))
    for i in range(S):
        for j in range(S):
            result[i, j] = (matrix.double().numpy() @ [(2 * j + 1) / S - 1, (2 * i + 1) / S - 1, 1])[:2]
    return result


def matrices(entries: list[float]) -> torch.Tensor:
    return torch.cat(
        [torch.tensor(entries).view(-1, 2, 3), torch.tensor([0.0, 0, 1]).expand(len(entries) // 6, 1, 3)], 1
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRIES, min_size=12, max_size=12))
def test_a_row_and_a_box_meet_in_columns(entries: list[float]) -> None:
    maps = matrices(entries)
    low, high = torch.tensor([[-0.93, -0.61], [-1.0, -1.0]]), torch.tensor([[0.47, 0.83], [1.0, 1.0]])
    first, last = columns_inside(maps[None], low, high, S)
    inside, edge = np.ones((S, S), bool), np.zeros((S, S), bool)
    for matrix, least, most in zip(maps, low.numpy(), high.numpy(), strict=True):
        where = places(matrix)
        inside &= ((where >= least) & (where <= most)).all(-1)
        edge |= (np.minimum(abs(where - least), abs(where - most)) < 1e-5).any(-1)
    columns = np.arange(S)
    got = (columns >= first[0, :, None].numpy()) & (columns <= last[0, :, None].numpy())
    assert np.array_equal(got[~edge], inside[~edge])


@pytest.mark.parametrize("kind", ["bilinear", "nearest"])
def test_pictures_are_sampled_where_the_map_says_and_nowhere_else(kind: str) -> None:
    maps = matrices([0.91, -0.33, 0.107, 0.31, 0.93, -0.203, 1, 0, 0, 0, 1, 0])
    pictures = torch.rand(2, 5, S, S, generator=torch.Generator().manual_seed(0)) + 1
    first, last = columns_inside(maps[:, None], -torch.ones(2), torch.ones(2), S)
    first[1, 4], last[1, 4], first[1, 5], last[1, 5] = 3, 7, S, -1
    grid = traced(*axes(maps, S), first, last)
    got = bilinear(pictures, grid) if kind == "bilinear" else nearest(pictures, pixels(grid))
    columns = torch.arange(S)
    kept = (columns >= first[..., None]) & (columns <= last[..., None])
    wanted = torch.from_numpy(np.stack([places(matrix) for matrix in maps])).float()
    expected = F.grid_sample(pictures, wanted, mode=kind, align_corners=False) * kept[:, None]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert not got[1, :, 5].any()
    whole = kept[1].clone()
    if kind == "nearest":
        assert torch.equal(got[1][:, whole], pictures[1][:, whole])
