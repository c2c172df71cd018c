"""Late interaction against a plain double loop, values and gradients, and at the points worked out by hand."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import index_dtype, local_scores, with_global_tokens
from shared.errors import UsageError


def plain(
    images: list[Tensor], texts: list[Tensor], direction: str = "both", slope: float = 0.1, reduction: str = "mean"
) -> Tensor:
    """One pair after the other, from the formula."""
    rows = []
    for v in images:
        row = []
        for t in texts:
            s = F.leaky_relu((t @ v.T).float() if v.dtype == torch.bfloat16 else t @ v.T, slope)
            t2i, i2t = s.max(1).values, s.max(0).values
            parts = (
                {"t2i": t2i.mean(), "i2t": i2t.mean()} if reduction == "mean" else {"t2i": t2i.sum(), "i2t": i2t.sum()}
            )
            row.append(sum(parts.values()) if direction == "both" else parts[direction])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def ragged(
    sizes: list[int], width: int, dtype: torch.dtype, seed: int, padding: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Unit vectors in sets of unequal size, one by one and padded, with the mask."""
    generator = torch.Generator().manual_seed(seed)
    sets = [
        F.normalize(torch.randn(k, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype) for k in sizes
    ]
    padded = torch.full((len(sizes), max(sizes) + 1, width), padding, dtype=dtype)
    mask = torch.zeros(padded.shape[:2], dtype=torch.bool)
    for row, tokens in enumerate(sets):
        # Padding stands before, between and behind: places are drawn.
        places = torch.randperm(max(sizes) + 1, generator=generator)[: len(tokens)]
        padded[row, places], mask[row, places] = tokens, True
    return sets, padded, mask


def check(sizes: tuple[list[int], list[int]], dtype: torch.dtype, seed: int, padding: float, **options: Any) -> None:
    images, v, v_mask = ragged(sizes[0], 6, dtype, seed, padding)
    texts, t, t_mask = ragged(sizes[1], 6, dtype, seed + 1, padding)
    leaves = [x.requires_grad_() for x in (*images, *texts)]
    plain_options = {name: value for name, value in options.items() if name != "tile_bytes"}
    expected = plain(images, texts, **plain_options)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7)).to(expected.dtype)
    # Only the order within a set is not the plain one's: gradients are compared by the token that they belong to.
    their_grads = torch.autograd.grad(expected, leaves, upstream)
    v.requires_grad_()
    t.requires_grad_()
    found = local_scores(v, t, v_mask, t_mask, **options)
    close = {torch.float64: 1e-10, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    our_grads = torch.autograd.grad(found, (v, t), upstream)
    for padded, mask, grad, group, theirs in (
        (v, v_mask, our_grads[0], images, their_grads[: len(images)]),
        (t, t_mask, our_grads[1], texts, their_grads[len(images) :]),
    ):
        assert not grad[~mask].any()
        for row, (tokens, grad_of_tokens) in enumerate(zip(group, theirs, strict=True)):
            order = [next(k for k, own in enumerate(tokens) if torch.equal(own, x)) for x in padded[row][mask[row]]]
            torch.testing.assert_close(grad[row][mask[row]], grad_of_tokens[order], rtol=2 * close, atol=2 * close)


SIZES = ([3, 1, 5, 2], [4, 1, 7])


@pytest.mark.parametrize("direction", ["both", "t2i", "i2t"])
@pytest.mark.parametrize("slope", [0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_and_gradients_are_the_double_loops(direction: str, slope: float, reduction: str) -> None:
    check(SIZES, torch.float64, 0, math.nan, direction=direction, slope=slope, reduction=reduction)


@settings(max_examples=12)
@given(
    images=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    texts=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    tile=st.sampled_from([1, 300, 2000, None]),
)
def test_ragged_sets_in_any_tile(images: list[int], texts: list[int], seed: int, tile: int | None) -> None:
    check((images, texts), torch.float64, seed, 0.0, tile_bytes=tile)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tile", [1, None])
def test_values_and_gradients_in_the_precisions_of_training(dtype: torch.dtype, tile: int | None) -> None:
    check(SIZES, dtype, 0, 0.0, tile_bytes=tile)


def test_what_is_kept_for_the_gradient() -> None:
    """The sets, and one byte for each token and pair: nothing of the size of the product."""
    v, t = sets(8, 40, 16, 0).requires_grad_(), sets(8, 40, 16, 1).requires_grad_()
    kept: dict[int, int] = {}

    def count(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        local_scores(v, t)
    in_sets = 2 * v.numel() * 4 + 2 * 8 * 40 * 4  # with a weight for each token
    assert sum(kept.values()) == in_sets + 8 * 8 * (40 + 40)


def sets(n: int, tokens: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(n, tokens, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tiles_change_nothing(dtype: torch.dtype) -> None:
    v, t = sets(9, 5, 16, 0, dtype).requires_grad_(), sets(11, 4, 16, 1, dtype).requires_grad_()
    results = []
    for tile in (1, 500, 3000, 1 << 20):
        scores = local_scores(v, t, tile_bytes=tile)
        with torch.no_grad():
            torch.testing.assert_close(local_scores(v, t, tile_bytes=tile), scores, rtol=0, atol=1e-6)
        results.append((scores, *torch.autograd.grad(scores.square().sum(), (v, t))))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6 if one.dtype == torch.float32 else 2e-2)


def test_gradcheck() -> None:
    v, t = sets(3, 4, 5, 0, torch.float64).requires_grad_(), sets(2, 3, 5, 1, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(local_scores, (v, t))
    assert torch.autograd.gradcheck(lambda x: local_scores(x, t.detach()), (v,))
    assert torch.autograd.gradcheck(lambda x: local_scores(v.detach(), x), (t,))


def test_many_tokens_need_wider_indices() -> None:
    """FILIP compares hundreds of patches; the index of each must come back whole."""
    assert [index_dtype(k) for k in (127, 128, 40_000)] == [torch.int8, torch.int16, torch.int32]
    v, t = sets(2, 200, 8, 0, torch.float64).requires_grad_(), sets(2, 3, 8, 1, torch.float64).requires_grad_()
    ours = torch.autograd.grad(local_scores(v, t).sum(), (v, t))
    theirs = torch.autograd.grad(plain(list(v), list(t)).sum(), (v, t))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


def test_by_hand() -> None:
    v, t = torch.eye(2)[None], torch.tensor([[[0.6, 0.8]]])
    assert local_scores(v, t).item() == pytest.approx(1.5)
    assert local_scores(-v, t).item() == pytest.approx(-0.13)
    assert local_scores(-v, t, slope=1).item() == pytest.approx(-1.3)


def test_invariants() -> None:
    v, t = sets(5, 6, 4, 0), sets(7, 3, 4, 1)
    scores = local_scores(v, t)
    assert scores.min() >= -0.2
    assert scores.max() <= 2
    torch.testing.assert_close(local_scores(v, v).diagonal(), torch.full((5,), 2.0))
    torch.testing.assert_close(local_scores(t, v).T, scores)
    torch.testing.assert_close(local_scores(v.repeat(1, 2, 1), t), scores)
    torch.testing.assert_close(local_scores(v, t.repeat(1, 3, 1)), scores)


def test_autocast_changes_nothing() -> None:
    v, t = sets(3, 6, 32, 0), sets(2, 3, 32, 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = local_scores(v, t)
    assert torch.equal(inside, local_scores(v, t))
    assert local_scores(v.bfloat16(), t.bfloat16()).dtype == torch.float32


def test_global_tokens() -> None:
    v, t, mask = sets(2, 4, 3, 0), sets(3, 5, 3, 1), torch.ones(3, 5, dtype=torch.bool)
    shapes = {
        choice: tuple(x.shape[1] for x in with_global_tokens(v, t, mask, choice) if x is not None)  # type: ignore[arg-type]
        for choice in ("both", "none", "image", "text")
    }
    assert shapes == {"both": (4, 5, 5), "none": (3, 4, 4), "image": (4, 4, 4), "text": (3, 5, 5)}
    images, texts, _ = with_global_tokens(v, t, None, "none")
    assert torch.equal(images, v[:, 1:])
    assert torch.equal(texts, t[:, :-1])
    with pytest.raises(UsageError, match="global_tokens must be one of both, none, image, text, got 'cls'"):
        with_global_tokens(v, t, None, "cls")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "clim direction must be one of both, t2i, i2t, got 'up'"),
        ({"reduction": "max"}, "clim reduction must be one of mean, sum, got 'max'"),
        ({"slope": 0.0}, r"clim slope must lie in \(0, 1\], got 0.0"),
        (
            {"text_mask": torch.zeros(3, 2, dtype=torch.bool)},
            "mask of texts must be .3, 2. with a token in every set",
        ),
        ({"texts": torch.zeros(3, 2, 5)}, r"texts must be \(sets, tokens, 4\), got \(3, 2, 5\)"),
    ],
)
def test_wrong_input_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"images": torch.zeros(2, 3, 4), "texts": torch.zeros(3, 2, 4)} | options
    with pytest.raises(UsageError, match=message):
        local_scores(**given)
