import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.partition import IID, ByColumn, Dirichlet, Partition, Shards
from shared.errors import UsageError

partitions = st.one_of(
    st.builds(IID, min_size=st.integers(1, 3)),
    st.builds(Dirichlet, alpha=st.floats(0.3, 100), min_size=st.integers(1, 3)),
    st.builds(Shards, per_client=st.integers(1, 4), min_size=st.integers(1, 3)),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed))


@settings(deadline=None, max_examples=80)
@given(partitions, st.integers(1, 6), st.integers(1, 7), st.integers(80, 200), st.integers(0, 2**32))
def test_shares_are_disjoint_cover_all_and_reach_the_minimum(
    partition: Partition, clients: int, classes: int, items: int, seed: int
) -> None:
    labels = rng(seed).integers(classes, size=items)
    shares = partition(labels, clients, rng(seed))
    assert len(shares) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(items))
    assert min(map(len, shares)) >= partition.min_size
    assert all(share.dtype == np.int64 and (np.diff(share) > 0).all() for share in shares)

    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = partition(labels, clients, rng(seed))
    assert all(map(np.array_equal, shares, again))


def test_partition_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    Dirichlet()(np.arange(100) % 5, 4, rng())
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_iid_sizes_and_classes_differ_by_at_most_one(clients: int, classes: int, seed: int) -> None:
    labels = rng(seed).integers(classes, size=60)
    counts = np.array([np.bincount(labels[s], minlength=classes) for s in IID(min_size=1)(labels, clients, rng(seed))])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_dirichlet_proportions_have_the_moments_of_the_distribution() -> None:
    alpha, clients = 2.0, 4
    labels = np.repeat(np.arange(500), 200)
    shares = Dirichlet(alpha)(labels, clients, rng())
    proportions = np.array([np.bincount(labels[share], minlength=500) for share in shares]) / 200
    np.testing.assert_allclose(proportions.mean(axis=1), 1 / clients, atol=0.03)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    np.testing.assert_allclose(proportions.var(axis=1), variance, rtol=0.25)


def test_small_alpha_is_uneven_and_large_alpha_even() -> None:
    labels = np.repeat(np.arange(10), 300)

    def spread(alpha: float) -> float:
        shares = Dirichlet(alpha)(labels, 5, rng(3))
        return float(np.std([np.bincount(labels[share], minlength=10) for share in shares]))

    assert spread(0.1) > spread(1.0) > spread(100.0)


def test_the_draw_of_a_seed_is_pinned() -> None:
    sizes = [len(share) for share in Dirichlet(1.0)(np.repeat(np.arange(10), 300), 5, rng(73))]
    assert sizes == [293, 549, 511, 804, 843]


@given(st.integers(1, 4), st.integers(0, 99))
def test_shards_give_few_classes_and_equal_sizes(per_client: int, seed: int) -> None:
    labels = np.repeat(np.arange(10), 60)
    shares = Shards(per_client)(labels, 10, rng(seed))
    assert {len(share) for share in shares} == {60}
    assert max(len(np.unique(labels[share])) for share in shares) <= 2 * per_client


def test_by_column_gives_one_client_per_value() -> None:
    center = np.array(["b", "a", "b", "c", "a", "c", "c"])
    shares = ByColumn("center")(np.zeros(7, dtype=int), 3, rng(), {"center": center})
    assert [share.tolist() for share in shares] == [[1, 4], [0, 2], [3, 5, 6]]
    assert ByColumn("center").client_names(3, {"center": center}) == ["0 (a)", "1 (b)", "2 (c)"]


def test_by_column_merges_virtual_clients_as_the_reference_does() -> None:
    virtual = rng().permutation(np.repeat(np.arange(100), 3))
    shares = ByColumn("id", merge=True)(np.zeros(300, dtype=int), 5, rng(), {"id": virtual})
    for client, share in enumerate(shares):
        assert set(virtual[share] // (100 // 5)) == {client}
    assert ByColumn("id", merge=True).client_names(5, {"id": virtual}) == list("01234")


@pytest.mark.parametrize(
    ("partition", "clients", "sentence"),
    [
        (IID(), 0, "data.clients must be at least 1, got 0"),
        (IID(min_size=0), 2, "data.partition.min_size must be at least 1, got 0"),
        (IID(min_size=9), 2, "data.clients must leave every client 9 items .*, got 2 clients for 12 items"),
        (Dirichlet(alpha=0), 2, "data.partition.alpha must be a positive number, got 0"),
        (Dirichlet(alpha=float("nan")), 2, "data.partition.alpha must be a positive number, got nan"),
        (Shards(0), 2, "data.partition.per_client must be at least 1, got 0"),
        (ByColumn("hospital"), 2, "data.partition.column must name a column .*, got 'hospital' of center"),
        (ByColumn(), 2, "data.clients must be 3, .* column 'center' .fewer with data.partition.merge., got 2"),
        (ByColumn(), 4, "data.clients must be 3, the number of values of column 'center', got 4"),
        (ByColumn(min_size=3), 3, r"min_size must be within reach of ByColumn\(.*smallest of 3 clients .* 2 items"),
        (Dirichlet(alpha=1e-6, min_size=4), 3, "data.partition.min_size must be within reach of Dirichlet"),
    ],
)
def test_bad_options_are_told_in_one_sentence(partition: Partition, clients: int, sentence: str) -> None:
    labels = np.zeros(12, dtype=int)
    center = np.array([0] * 7 + [1] * 2 + [2] * 3)
    with pytest.raises(UsageError, match=sentence):
        partition(labels, clients, rng(), {"center": center})
