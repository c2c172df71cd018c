from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from shared.errors import UsageError
from usssl.fractions import label_fraction
from usssl.patients import check_patients, check_pretraining, patient_split

NAMES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], [300, 200, 100])


@pytest.mark.parametrize("percent", [50, 25, 10, 5, 1])
def test_the_reference_draw_is_scikit_learns(percent: int) -> None:
    _, expected = train_test_split(np.arange(600), test_size=percent / 100, random_state=1792, stratify=LABELS)
    assert label_fraction(LABELS, percent, NAMES).tolist() == sorted(expected)


def test_everything_is_everything() -> None:
    assert label_fraction(LABELS, 100, NAMES).tolist() == list(range(600))


@pytest.mark.parametrize("by_patient", [False, True])
def test_nested_shares_lie_in_each_other(by_patient: bool) -> None:
    patients = np.arange(600) // 4 if by_patient else None
    shares = [set(label_fraction(LABELS, p, NAMES, nested=True, patients=patients).tolist()) for p in (5, 10, 25, 50)]
    assert all(small < large for small, large in pairwise(shares))
    assert [len(share) for share in shares] == pytest.approx([30, 60, 150, 300], abs=4)


@pytest.mark.parametrize("nested", [False, True])
def test_whole_patients_are_drawn(nested: bool) -> None:
    patients = np.random.default_rng(0).permutation(600) // 6
    rows = label_fraction(LABELS, 25, NAMES, nested=nested, patients=patients)
    assert not set(patients[rows]) & set(np.delete(patients, rows))
    shares = np.bincount(LABELS[rows]) / np.bincount(LABELS)
    assert shares == pytest.approx([0.25] * 3, abs=0.08)


@pytest.mark.parametrize("nested", [False, True])
def test_a_class_that_comes_out_empty_is_named(nested: bool) -> None:
    labels = np.repeat([0, 1, 2], [500, 480, 20])
    with pytest.raises(UsageError, match=r"at least one image, 1 % leaves none of the 20 of c"):
        label_fraction(labels, 1, NAMES, nested=nested)
    with pytest.raises(UsageError, match=r"leaves none of the 3 of"):
        label_fraction(np.repeat([0, 1, 2], 3), 1, NAMES, nested=nested)


@given(st.lists(st.integers(0, 2), min_size=12, max_size=60), st.sampled_from([10, 25, 50]))
def test_either_every_class_is_there_or_the_draw_is_refused(labels: list[int], percent: int) -> None:
    drawn = np.array(labels)
    try:
        rows = label_fraction(drawn, percent, NAMES)
    except UsageError:
        return
    assert set(drawn[rows]) == set(labels)
    assert rows.tolist() == sorted(set(rows.tolist()))


@pytest.mark.parametrize("percent", [0, 100.5])
def test_no_share_and_more_than_all_are_refused(percent: float) -> None:
    with pytest.raises(UsageError, match=rf"data.fraction must lie in \(0, 100\] percent, got {percent}"):
        label_fraction(np.array([0, 1]), percent, ("a", "b"), 0)


def test_patients_in_two_parts_are_named() -> None:
    with pytest.raises(UsageError, match=r"no patient may be in both train and test, but these are: p2, p3"):
        check_patients(train=["p1", "p2", "p3", None], validation=[None], test=["p3", "p2", None])


def test_nobody_is_tested_whom_the_backbone_has_seen() -> None:
    seen = {"busi": ["3", "7"], "lung_us_clips": ["1"]}
    with pytest.raises(UsageError, match=r"no patient may be in both pretraining and test, but these are: 7"):
        check_pretraining(seen, "busi", np.array([7, 8, 9]))
    check_pretraining(seen, "busi", np.array([1, 8, 9]))
    check_pretraining(seen, "hc18", np.array([3, 7]))  # somebody else's numbers
    check_pretraining({}, "busi", None)
    with pytest.raises(UsageError, match=r"data.patient must name the column .* pretrained on busi too"):
        check_pretraining(seen, "busi", None)


def test_patients_are_divided_over_all_classes_at_once() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 80, 600)
    parts = patient_split(LABELS, patients, {"test": 0.2, "validation": 0.1}, 0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(600))
    check_patients(**{part: patients[rows] for part, rows in parts.items()})
    for part, share in (("test", 0.2), ("validation", 0.1)):
        assert np.bincount(LABELS[parts[part]]) / [300, 200, 100] == pytest.approx([share] * 3, abs=0.04)


def test_shares_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sum to less than 1"):
        patient_split(LABELS, np.arange(600), {"test": 0.6, "validation": 0.4}, 0)
