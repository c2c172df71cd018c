import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.splits import check_no_leak, group_split, stratified_fraction, stratified_split
from shared.errors import UsageError

labels_lists = st.lists(st.integers(0, 4), min_size=20, max_size=120).map(np.array)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(labels_lists, st.floats(0.01, 1), st.integers(0, 99))
def test_fraction_keeps_its_share_of_every_class(labels: np.ndarray, fraction: float, seed: int) -> None:
    kept = stratified_fraction(labels, fraction, rng(seed))
    assert (np.diff(kept) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert (labels[kept] == label).sum() == max(1, int(fraction * count + 0.5))


@given(labels_lists, st.integers(0, 99))
def test_smaller_fractions_are_subsets_of_larger_ones(labels: np.ndarray, seed: int) -> None:
    small, middle, large = (set(stratified_fraction(labels, f, rng(seed)).tolist()) for f in (0.05, 0.3, 1.0))
    assert small <= middle <= large
    assert len(large) == len(labels)


@given(labels_lists, st.floats(0.05, 0.95), st.integers(0, 99))
def test_stratified_split_covers_and_keeps_each_class_on_both_sides(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    rest, held = stratified_split(labels, fraction, rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        in_held = (labels[held] == label).sum()
        assert abs(in_held - fraction * count) <= 1
        if count > 1:
            assert 0 < in_held < count


@given(st.integers(10, 40), st.floats(0.15, 0.5), st.integers(0, 9999))
def test_group_split_keeps_groups_whole_and_comes_near_the_share(patients: int, fraction: float, seed: int) -> None:
    generator = rng(seed)
    groups = np.repeat(np.arange(patients), generator.integers(1, 5, size=patients))
    labels = generator.integers(3, size=len(groups))
    rest, held = group_split(labels, groups, fraction, rng(seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
    check_no_leak("patient", train=groups[rest], test=groups[held])
    largest = np.bincount(groups).max()  # no whole group can come nearer than its own size
    assert abs(len(held) - fraction * len(labels)) < 0.15 * len(labels) + largest


def test_splits_are_deterministic_and_differ_between_seeds() -> None:
    labels = np.arange(200) % 4
    groups = np.arange(200) // 5
    for split in (
        lambda seed: stratified_split(labels, 0.3, rng(seed))[1],
        lambda seed: group_split(labels, groups, 0.3, rng(seed))[1],
        lambda seed: stratified_fraction(labels, 0.3, rng(seed)),
    ):
        np.testing.assert_array_equal(split(1), split(1))
        assert not np.array_equal(split(1), split(2))


def test_a_class_with_one_item_stays_in_training() -> None:
    rest, held = stratified_split(np.array([0, 0, 0, 0, 1]), 0.5, rng())
    assert 4 in rest
    assert 4 not in held


def test_leak_names_parts_and_offenders() -> None:
    with pytest.raises(UsageError, match=r"no patient may be in both train and test, but these are: 3, 7$"):
        check_no_leak("patient", train=np.array([1, 3, 7]), validation=np.array([2]), test=np.array([7, 3, 9]))
    many = np.arange(9)
    with pytest.raises(UsageError, match=r"these are: 0, 1, 2, 3, 4 and 4 more$"):
        check_no_leak("patient", train=many, test=many)
    check_no_leak("patient", train=np.array(["a"]), test=np.array(["b"]))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UsageError, match=rf"must lie in \(0, 1\], got {fraction}"):
        stratified_fraction(np.zeros(5, dtype=int), fraction, rng())


@pytest.mark.parametrize("fraction", [0, 1])
def test_held_out_share_out_of_range(fraction: float) -> None:
    labels = np.zeros(5, dtype=int)
    with pytest.raises(UsageError, match=rf"must lie in \(0, 1\), got {fraction}"):
        stratified_split(labels, fraction, rng())
    with pytest.raises(UsageError, match=rf"must lie in \(0, 1\), got {fraction}"):
        group_split(labels, labels, fraction, rng())


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"holding out 0.1 of 6 items leaves 6 and 0: the groups or classes are too few"
    ):
        group_split(np.zeros(6, dtype=int), np.array([0, 0, 0, 1, 1, 1]), 0.1, rng())
    with pytest.raises(UsageError, match=r"leaves 3 and 0"):
        stratified_split(np.arange(3), 0.5, rng())
