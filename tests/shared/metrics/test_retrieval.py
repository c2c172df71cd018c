"""Positions, recall and ranks against sorting by hand, from whole matrices and streamed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.errors import RunError, UsageError
from shared.metrics.retrieval import (
    positions,
    positions_in_order,
    recall_at,
    recall_by_chance,
    retrieval_scores,
    streamed_positions,
)


def plain_position(scores: list[float], true: list[int], ties: str) -> int:
    """Items that stand before the best of the true ones, in a list sorted by hand; the others of them are left out."""
    best = min(true, key=lambda i: (-scores[i], i))
    others = [i for i in range(len(scores)) if i not in true or i == best]
    last = {"index": lambda i: i, "optimistic": lambda i: i != best, "pessimistic": lambda i: i == best}[ties]
    return sorted(others, key=lambda i: (-scores[i], last(i))).index(best)


@given(
    owners=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    tile=st.tuples(st.integers(1, 6), st.integers(1, 10)),
    ties=st.sampled_from(["index", "optimistic", "pessimistic"]),
    seed=st.integers(0, 99),
)
def test_positions_are_those_of_a_sorted_list(owners: list[int], tile: tuple[int, int], ties: str, seed: int) -> None:
    """Few distinct scores, so that there are ties; any assignment of texts to images."""
    names = sorted(set(owners))
    owner = torch.tensor([names.index(o) for o in owners])
    images = len(names)
    scores = torch.randint(0, 4, (images, len(owner)), generator=torch.Generator().manual_seed(seed)).float()
    found = streamed_positions(lambda rows, cols: scores[rows, cols], owner, images, tile, ties)  # type: ignore[arg-type]
    for i in range(images):
        own = [t for t in range(len(owner)) if owner[t] == i]
        assert found.image_to_text[i] == plain_position(scores[i].tolist(), own, ties)
    for t in range(len(owner)):
        assert found.text_to_image[t] == plain_position(scores[:, t].tolist(), [int(owner[t])], ties)
    for one, two in zip(found, positions(scores, owner, ties), strict=True):  # type: ignore[arg-type]
        assert torch.equal(one, two)


def test_a_perfect_score() -> None:
    for found in positions(torch.eye(20)):
        assert retrieval_scores(found) == {"r1": 1, "r5": 1, "r10": 1, "mean_rank": 1, "median_rank": 1}


def test_the_worst_score() -> None:
    for found in positions(-torch.eye(20)):
        told = retrieval_scores(found)
        assert told == {"r1": 0, "r5": 0, "r10": 0, "mean_rank": 20, "median_rank": 20}


def test_a_constant_score_is_chance() -> None:
    scores = torch.full((20, 20), 0.3)
    for found in positions(scores):
        assert recall_at(found, 1) == pytest.approx(1 / 20)
    assert recall_at(positions(scores, ties="optimistic").image_to_text, 1) == 1
    assert recall_at(positions(scores, ties="pessimistic").image_to_text, 19) == 0


def test_random_scores_are_chance() -> None:
    scores = torch.rand(2000, 2000, generator=torch.Generator().manual_seed(0))
    for found in positions(scores):
        for k in (100, 500):
            assert recall_at(found, k) == pytest.approx(k / 2000, abs=0.04)
    assert recall_by_chance(2000, 100) == pytest.approx(0.05)
    draws = np.random.default_rng(0)
    hits = [bool(set(draws.permutation(25)[:5]) & {0, 1, 2, 3, 4}) for _ in range(4000)]
    assert recall_by_chance(25, 5, own=5) == pytest.approx(np.mean(hits), abs=0.03)


def five(images: int) -> Tensor:
    return torch.arange(5 * images) // 5


def test_five_captions() -> None:
    scores = torch.randn(8, 40, generator=torch.Generator().manual_seed(1))
    found = positions(scores, five(8))
    swapped = torch.arange(40)
    swapped[10:15] = torch.tensor([13, 10, 14, 12, 11])
    again = positions(scores[:, swapped], five(8))
    assert torch.equal(again.image_to_text, found.image_to_text)
    assert torch.equal(again.text_to_image, found.text_to_image[swapped])
    # One caption first, the other four last: a hit all the same.
    scores[3, 15:20] = -10
    scores[3, 18] = 10
    assert positions(scores, five(8)).image_to_text[3] == 0


def test_the_median_is_rounded_down() -> None:
    assert retrieval_scores(torch.tensor([0, 1, 2, 3]))["median_rank"] == 2
    assert retrieval_scores(torch.tensor([0, 1]))["median_rank"] == 1


def test_positions_in_an_order() -> None:
    order = torch.stack([torch.randperm(9) for _ in range(4)])
    true = torch.tensor([3, 0, 8, 5])
    expected = [order[q].tolist().index(int(true[q])) for q in range(4)]
    assert positions_in_order(order, true).tolist() == expected
    several = positions_in_order(order, torch.tensor([[3, 1]] * 4))
    assert several.tolist() == [min(order[q].tolist().index(i) for i in (3, 1)) for q in range(4)]


def test_wrong_input_is_refused() -> None:
    scores = torch.zeros(2, 3)
    with pytest.raises(UsageError, match="every image must own a text, but image 1 has none"):
        positions(scores, torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match="retrieval needs at least one image and one text, got 0 and 3"):
        positions(torch.zeros(0, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match=r"owner must lie in 0\.\.1, got 0\.\.2"):
        positions(scores, torch.arange(3))
    with pytest.raises(UsageError, match="ties must be one of index, optimistic, pessimistic, got 'first'"):
        positions(torch.zeros(2, 2), ties="first")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="a score is not a number"):
        positions(torch.full((2, 2), math.nan))
