"""Centred clipping over random and over sequential buckets against plain transcriptions."""

import math

import pytest
import torch
from torch import Tensor

from fedseca.aggregators import CenteredClipping, RandomBucketClipping, SequentialBucketClipping
from fedseca.aggregators.sequential_bucket_clipping import sequential_buckets
from fedseca.pre_aggregation import Bucketing
from shared.errors import UsageError
from shared.federated.seeds import derived_generator


def normal(k: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_clipping(rows: Tensor, m: Tensor, tau: float, iterations: int) -> Tensor:
    for _ in range(iterations):
        differences = rows - m
        norms = differences.norm(dim=1)
        factors = torch.tensor([min(1.0, tau / n) if n else 0.0 for n in norms.tolist()], dtype=torch.float64)
        m = m + (factors[:, None] * differences).mean(0)
    return m


@pytest.mark.parametrize(("k", "size"), [(6, 2), (7, 2), (7, 3), (5, 9), (4, 1)])
def test_random_buckets(k: int, size: int) -> None:
    rule, expected = RandomBucketClipping(tau=1.5, iterations=3, size=size, seed=4), torch.zeros(20).double()
    for t in range(4):
        g = normal(k, 20, t)
        buckets = Bucketing(size, seed=4).buckets(k, t)
        assert sorted(i for bucket in buckets for i in bucket) == list(range(k))
        assert [len(bucket) for bucket in buckets[:-1]] == [size] * (len(buckets) - 1)
        means = torch.stack([g[bucket].mean(0) for bucket in buckets])
        expected = slow_clipping(means, expected, 1.5, 3)
        torch.testing.assert_close(rule(g, round=t), expected, rtol=1e-10, atol=1e-12)


def test_buckets_of_one_with_any_order_are_centred_clipping() -> None:
    g = normal(6, 20)
    torch.testing.assert_close(RandomBucketClipping(tau=1.0, size=1)(g), CenteredClipping(tau=1.0)(g))


@pytest.mark.parametrize(("k", "size"), [(6, 2), (7, 2), (7, 3), (9, 4), (5, 9), (4, 1), (1, 2)])
def test_sequential_buckets_take_one_of_each_run(k: int, size: int) -> None:
    agreement = torch.rand(k, generator=torch.Generator().manual_seed(k)) * 2 - 1
    buckets = sequential_buckets(agreement, size, torch.Generator().manual_seed(0))
    length = math.ceil(k / size)
    assert len(buckets) == length
    assert sorted(i for bucket in buckets for i in bucket) == list(range(k))
    order = agreement.argsort(stable=True).tolist()
    run = {client: position // length for position, client in enumerate(order)}
    for bucket in buckets:
        assert [run[i] for i in bucket] == sorted({run[i] for i in bucket})


@pytest.mark.parametrize(("k", "size", "iterations"), [(6, 2, 1), (7, 3, 2), (5, 2, 1)])
def test_sequential_clipping(k: int, size: int, iterations: int) -> None:
    rule, m = SequentialBucketClipping(1.5, iterations, size, seed=9), torch.zeros(20).double()
    for t in range(4):
        g = normal(k, 20, t)
        cosines = torch.nn.functional.cosine_similarity(m[None], g, dim=1)
        generator = derived_generator(9, "sequential buckets", t)
        for bucket in sequential_buckets(cosines, size, generator):
            m = slow_clipping(g[bucket], m, 1.5, iterations)
        torch.testing.assert_close(rule(g, round=t), m, rtol=1e-10, atol=1e-12)


def test_first_round_stands_in_the_order_of_ids() -> None:
    """The last update is zero then, so every cosine ties."""
    buckets = sequential_buckets(torch.zeros(6), 3, torch.Generator().manual_seed(0))
    assert all([i // 2 for i in bucket] == [0, 1, 2] for bucket in buckets)


@pytest.mark.parametrize("make", [RandomBucketClipping, SequentialBucketClipping])
def test_draws_depend_on_seed_and_round_alone(
    make: type[RandomBucketClipping] | type[SequentialBucketClipping],
) -> None:
    g = normal(9, 30)

    def first(seed: int, t: int) -> Tensor:
        return make(tau=0.5, seed=seed)(g, round=t)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    u = first(0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert torch.equal(first(0, 0), u)
    torch.set_num_threads(threads)
    assert not torch.equal(first(1, 0), u)
    assert not torch.equal(first(0, 1), u)


@pytest.mark.parametrize("make", [RandomBucketClipping, SequentialBucketClipping])
def test_one_huge_upload_moves_it_by_tau_at_most(
    make: type[RandomBucketClipping] | type[SequentialBucketClipping],
) -> None:
    g = torch.zeros(5, 4)
    g[2] = 1e30
    assert make(tau=1.0, iterations=1)(g).norm() <= 1


@pytest.mark.parametrize("make", [RandomBucketClipping, SequentialBucketClipping])
def test_state_survives_a_checkpoint(make: type[RandomBucketClipping] | type[SequentialBucketClipping]) -> None:
    whole, resumed = make(tau=2.0), make(tau=2.0)
    whole.setup(20)
    whole(normal(5, 20, 1).float())
    resumed.setup(20)
    resumed.load_state_dict(whole.state_dict())
    g = normal(5, 20, 2).float()
    assert torch.equal(resumed(g, round=1), whole(g, round=1))


def test_meaningless_options_are_refused() -> None:
    with pytest.raises(UsageError, match="Bucketing: size must be at least 1, got 0"):
        RandomBucketClipping(size=0)
    with pytest.raises(UsageError, match="SequentialBucketClipping: size must be at least 1, got 0"):
        SequentialBucketClipping(size=0)
    rule = SequentialBucketClipping()
    rule(normal(3, 4))
    with pytest.raises(UsageError, match="SequentialBucketClipping: updates must have 4 coordinates as before, got 5"):
        rule(normal(3, 5))


@pytest.mark.parametrize("make", [CenteredClipping, RandomBucketClipping, SequentialBucketClipping])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_a_centre_far_from_zero_moves_as_one_at_zero(make: type[CenteredClipping], shift: float) -> None:
    """Steps on inner products lose no more digits than float32 has, however far uploads and centre are from zero."""
    g = normal(6, 500).float()
    g[5] *= 1e20
    near, far = make(tau=3.0), make(tau=3.0)
    near.setup(500)
    far.setup(500)
    assert far.center is not None
    far.center += shift
    if make is SequentialBucketClipping:
        near.move, far.move = (CenteredClipping.move.__get__(rule) for rule in (near, far))  # cosines do not translate
    torch.testing.assert_close(far(g + shift) - shift, near(g), rtol=0, atol=1e-6 * max(1.0, shift))
