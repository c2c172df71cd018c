import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.class_partition import (
    ClassChunks,
    ClassGroups,
    MergedDirichlet,
    MergedShards,
    RandomOwner,
    Strided,
    WholeClasses,
)
from shared.data.partition import ByColumn, Partition
from shared.errors import UsageError

ALL: list[Partition] = [
    Strided(),
    ClassChunks(),
    ClassChunks(chunks=7),
    ClassGroups(),
    ClassGroups(per_group=3),
    WholeClasses(),
    RandomOwner(),
    MergedShards("id"),
    MergedDirichlet(),
    MergedDirichlet(alpha=0.5, shards=20),
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(ALL), st.integers(1, 7), st.integers(0, 2**32))
def test_shares_are_disjoint_and_cover_all(partition: Partition, clients: int, seed: int) -> None:
    labels = rng(seed).permutation(np.repeat(np.arange(10), 20))
    columns = {"id": rng(seed).permutation(np.arange(200) % 100)}
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter, nor change
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    shares = partition(labels, clients, rng(seed), columns)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert len(shares) == clients
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(200))
    assert all(len(share) >= partition.min_size and (np.diff(share) > 0).all() for share in shares)
    assert all(map(np.array_equal, shares, partition(labels, clients, rng(seed), columns)))


@pytest.mark.parametrize("partition", ALL[:7])
def test_what_draws_nothing_does_not_depend_on_the_seed(partition: Partition) -> None:
    labels = rng().permutation(np.repeat(np.arange(10), 20))
    assert all(map(np.array_equal, partition(labels, 5, rng(1)), partition(labels, 5, rng(2))))


def test_strided_takes_every_kth_item_of_a_class() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0, 1])  # class 0: 0 2 4 5, class 1: 1 3 6
    shares = Strided(min_size=1)(labels, 3, rng())
    assert [share.tolist() for share in shares] == [[0, 1, 5], [2, 3], [4, 6]]


def test_half_mixed_deals_quarters_of_classes() -> None:
    labels = np.repeat(np.arange(3), 8)
    shares = ClassChunks()(labels, 5, rng())
    # Chunks of two items, in order of class; client c takes chunks c, c + 5, c + 10.
    chunks = np.arange(24).reshape(12, 2)
    for client, share in enumerate(shares):
        np.testing.assert_array_equal(share, chunks[client::5].ravel())


def test_half_pure_clients_come_in_pairs_of_equal_classes() -> None:
    labels = rng().permutation(np.repeat(np.arange(10), 12))
    shares = ClassGroups()(labels, 6, rng())
    classes = [set(labels[share].tolist()) for share in shares]
    assert classes == [{0, 3, 6, 9}] * 2 + [{1, 4, 7}] * 2 + [{2, 5, 8}] * 2
    assert [len(share) for share in shares] == [24, 24, 18, 18, 18, 18]
    odd = [set(labels[share].tolist()) for share in ClassGroups()(labels, 5, rng())]
    assert odd[0] == odd[1]
    assert odd[2] == odd[3]
    assert odd[4] == {2, 5, 8}


def test_not_mixed_gives_whole_classes() -> None:
    labels = rng().permutation(np.repeat(np.arange(10), 5))
    shares = WholeClasses()(labels, 4, rng())
    assert [set(labels[share].tolist()) for share in shares] == [{0, 4, 8}, {1, 5, 9}, {2, 6}, {3, 7}]


def test_the_random_owner_is_numpys_legacy_draw_with_seed_100() -> None:
    np.random.seed(100)  # noqa: NPY002
    owner = np.random.randint(0, 5, 300)  # noqa: NPY002
    for client, share in enumerate(RandomOwner()(np.zeros(300, int), 5, rng())):
        np.testing.assert_array_equal(share, np.flatnonzero(owner == client))


@pytest.mark.parametrize("clients", [1, 3, 5, 20])
def test_shards_are_merged_as_the_reference_does(clients: int) -> None:
    shard = rng().permutation(np.repeat(np.arange(100), 3))
    shares = MergedShards()(np.zeros(300, int), clients, rng(), {"y_alpha_id": shard})
    for client, share in enumerate(shares):
        assert set(np.floor(shard[share] / (100 / clients)).astype(int)) == {client}


def test_an_empty_shard_moves_nobody_else() -> None:
    shard = np.repeat(np.arange(50, 100), 2)  # where ranks would be counted, shard 50 would be the first
    shares = MergedShards(min_size=1)
    with pytest.raises(UsageError, match="smallest of 2 clients never owned more than 0"):
        shares(np.zeros(100, int), 2, rng(), {"y_alpha_id": shard})
    assert len(ByColumn("y_alpha_id", merge=True)(np.zeros(100, int), 2, rng(), {"y_alpha_id": shard})[0]) == 50


def test_merging_evens_a_dirichlet_draw_out() -> None:
    labels = np.repeat(np.arange(200), 100)

    def spread(shards: int) -> float:
        shares = MergedDirichlet(alpha=1.0, shards=shards)(labels, 4, rng())
        return float(np.var([np.bincount(labels[share], minlength=200) / 100 for share in shares]))

    for shards in (4, 100):
        concentration = 4 * shards / 4  # of Dir(alpha * shards / K) over the K clients
        assert spread(shards) == pytest.approx(0.25 * 0.75 / (concentration + 1), rel=0.25)


@pytest.mark.parametrize(
    ("partition", "clients", "sentence"),
    [
        (ClassChunks(chunks=0), 2, "data.partition.chunks must be at least 1, got 0"),
        (ClassChunks(chunks=1), 4, "data.clients must be at most the 3 chunks of all classes, got 4"),
        (ClassGroups(per_group=0), 2, "data.partition.per_group must be at least 1, got 0"),
        (ClassGroups(per_group=1), 4, "at most 3 groups, one per class, got 4 groups of 1 for 4 clients"),
        (WholeClasses(), 4, "data.clients must be at most 3, the number of classes, got 4"),
        (MergedShards(), 2, "data.partition.column must name a column of the data, got 'y_alpha_id' of id"),
        (MergedShards("id", shards=9), 2, r"must cover column 'id', integers in 0..8, which holds 0 to 11"),
        (MergedShards("id", shards=3), 4, "data.partition.shards must be at least the number of clients, 4, got 3"),
        (MergedDirichlet(shards=3), 4, "data.partition.shards must be at least the number of clients, 4, got 3"),
        (MergedDirichlet(alpha=0), 2, "data.partition.alpha must be a positive number, got 0"),
    ],
)
def test_bad_options_are_told_in_one_sentence(partition: Partition, clients: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        partition(np.arange(12) % 3, clients, rng(), {"id": np.arange(12)})
