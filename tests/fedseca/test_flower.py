"""Rules as strategies of Flower: messages made by hand, no network, no Ray but in one test."""

import io
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("flwr", reason="needs Flower (pip install fedseca[flower])")

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.supercore.task_identity import TaskIdentity

from fedseca import aggregators
from fedseca.aggregators import CoordinateMedian as Median
from fedseca.aggregators import FedAvg, FedSECA, FLTrust, Krum, MoNNA, PreAggregated, TrimmedMean
from fedseca.flower import RobustStrategy
from fedseca.pre_aggregation import NNM
from shared.checkpoints import load_tensors, save_tensors
from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator

EXAMPLE = Path(__file__).parents[2] / "packages/fedseca/examples/robust_flower.py"
Arrays = dict[str, np.ndarray]
OPTIONS: dict[str, Callable[[], VectorAggregator]] = {
    "PreAggregated": lambda: PreAggregated([NNM(1)], TrimmedMean(1)),
    "FLDetector": lambda: aggregators.FLDetector(window=2),
    "FLDetector faithful": lambda: aggregators.FLDetector(window=2, faithful=True),
}
RULES = [*aggregators.__all__, "FLDetector faithful"]
CLIENTS = 8


def make(name: str) -> VectorAggregator:
    rule: VectorAggregator = OPTIONS[name]() if name in OPTIONS else getattr(aggregators, name)()
    return rule


def start_model(dtype: str = "float32") -> Arrays:
    values = np.random.default_rng(5)
    return {
        "conv.weight": values.normal(size=(3, 2, 2)).astype(dtype),
        "bn.steps": np.array(7),
        "bn.bias": values.normal(size=5).astype(dtype),
        "a": values.normal(size=()).astype(dtype),
    }


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def unpacked(arrays: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in arrays.items()}


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([values.ravel() for values in arrays.values() if values.dtype.kind == "f"])


def node_of(client: int) -> int:
    """Node ids are numbers of 64 bits in an order that has nothing to do with that of the clients."""
    return int(np.random.default_rng(client).integers(2**64, dtype=np.uint64))


def question(node: int, **content: Any) -> Message:
    return Message(RecordDict(content), dst_node_id=node, message_type=MessageType.TRAIN)


def answer(node: int, arrays: Arrays | ArrayRecord, **metrics: Any) -> Message:
    arrays = arrays if isinstance(arrays, ArrayRecord) else record(arrays)
    told = MetricRecord({"num-examples": 10, **{name.replace("_", "-"): value for name, value in metrics.items()}})
    return Message(RecordDict({"arrays": arrays, "metrics": told}), reply_to=question(node))


def trained(model: Arrays, client: int, round: int) -> Arrays:
    """What a client would upload: anything, but the same for the same client and round."""
    noise = np.random.default_rng([client, round])
    return {
        name: values + client + round
        if values.dtype.kind == "i"
        else (values - 0.1 - 0.2 * noise.normal(size=values.shape)).astype(values.dtype)
        for name, values in model.items()
    }


class Nodes:
    """A grid whose nodes answer at once, in an order of their own."""

    def __init__(self, clients: Iterable[int] = range(CLIENTS), send_id: bool = True) -> None:
        self.clients = {node_of(client): client for client in clients}
        self.send_id = send_id
        self.rounds: list[int] = []

    def get_node_ids(self) -> list[int]:
        return list(self.clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            round = int(message.content["config"]["server-round"])
            self.rounds.append(round)
            replies.append(self.reply(message, self.clients[message.metadata.dst_node_id], round))
        return replies

    def reply(self, message: Message, client: int, round: int) -> Message:
        sent = {"partition-id": client} if self.send_id else {}
        told = MetricRecord({"num-examples": 10 + client, "loss": float(client), **sent})
        if message.metadata.message_type == MessageType.EVALUATE:
            return Message(RecordDict({"metrics": told}), reply_to=message)
        arrays = record(trained(unpacked(message.content["arrays"]), client, round))
        return Message(RecordDict({"arrays": arrays, "metrics": told}), reply_to=message)


def reference_fn(round: int, arrays: ArrayRecord) -> ArrayRecord:
    return record(trained(unpacked(arrays), 99, round))


def strategy_of(rule: VectorAggregator, **options: Any) -> RobustStrategy:
    return RobustStrategy(rule, reference_fn=reference_fn if rule.needs_reference else None, **options)


def play(strategy: RobustStrategy, model: Arrays, replies: list[Message]) -> tuple[Arrays, MetricRecord]:
    """One round with these replies."""
    list(strategy.configure_train(1, record(model), ConfigRecord(), Nodes(range(max(50, len(replies))))))
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    return unpacked(arrays), metrics


@pytest.fixture(autouse=True)
def _as_inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are only made inside a run of Flower, which these are not."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the strategy writes to Flower's log, which does not propagate."""
    found: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    keeper = Keeper()
    logging.getLogger("flwr").addHandler(keeper)
    yield found
    logging.getLogger("flwr").removeHandler(keeper)


# ---------------------------------------------------------------------- the rule, and nothing but the rule


def test_three_clients_and_four_numbers_by_hand() -> None:
    g = np.array([[1, -2, 0, 4], [2, -1, 0, -3], [-1, 3, 0, 5]], dtype=np.float32)
    model = {"w": np.array([[10, 20]], dtype=np.float32), "b": np.array([30, 40], dtype=np.float32)}
    replies = [
        answer(node_of(k), {"b": model["b"] - g[k, 2:], "w": model["w"] - g[k, :2]}, partition_id=k) for k in (2, 0, 1)
    ]
    arrays, metrics = play(RobustStrategy(FedSECA(gamma=0.0, beta=0.0)), model, replies)
    np.testing.assert_array_equal(arrays["w"], [[9, 21.5]])
    np.testing.assert_array_equal(arrays["b"], [30, 40])
    assert list(arrays) == ["w", "b"]
    assert metrics["combined-clients"] == [0, 1, 2]
    assert metrics["left-out-nodes"] == []
    assert metrics["rule-rho"] == pytest.approx([1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_what_it_gives_on_the_stacked_matrix(name: str, dtype: str) -> None:
    model, strategy, rule = start_model(dtype), strategy_of(make(name)), make(name)
    rule.setup(len(flat(model)))
    if dtype == "float64":
        rule.double()
    for round in range(4):
        uploads = [trained(model, k, round) for k in range(CLIENTS)]
        origin = torch.from_numpy(flat(model))
        update = rule(
            torch.stack([origin - torch.from_numpy(flat(upload)) for upload in uploads]),
            origin=origin,
            round=round,
            reference=origin - torch.from_numpy(flat(trained(model, 99, round + 1))),
        )
        order = np.random.default_rng(round).permutation(CLIENTS)
        replies = [answer(node_of(k), uploads[k], partition_id=int(k)) for k in order]
        model, metrics = play(strategy, model, replies)
        np.testing.assert_array_equal(flat(model), origin - update)
        assert {name: values.dtype for name, values in model.items()} == {
            name: values.dtype for name, values in start_model(dtype).items()
        }
        assert model["bn.steps"] == uploads[0]["bn.steps"]
        assert strategy.round == round + 1
        for key, value in rule.diagnostics.items():
            if value.ndim <= 1:
                np.testing.assert_array_equal(metrics[f"rule-{key}"], value.tolist())


def test_momentum_lives_from_round_to_round() -> None:
    model = {"w": np.zeros(2, dtype=np.float32)}
    strategy = RobustStrategy(FedSECA(gamma=0.0, beta=0.5))
    moved = []
    for _ in range(3):
        before = model["w"]
        uploads = {"w": before - np.float32([1, -2])}
        model, _ = play(strategy, model, [answer(node_of(k), uploads, partition_id=k) for k in range(3)])
        moved.append((before - model["w"]).tolist())
    assert moved == [[0.5, -1.0], [0.75, -1.5], [0.875, -1.75]]


def test_clients_count_equally_or_by_their_examples() -> None:
    model = {"w": np.zeros(1, dtype=np.float32)}
    for weighting, expected in (("equal", 2.0), ("samples", 1.5)):
        replies = [
            answer(node_of(k), {"w": np.float32([value])}, num_examples=n) for k, value, n in ((0, 1, 30), (1, 3, 10))
        ]
        arrays, _ = play(RobustStrategy(FedAvg(), weighting=weighting), model, replies)  # type: ignore[arg-type]
        assert arrays["w"] == expected
    replies = [answer(node_of(k), {"w": np.float32([k])}, num_examples=1.7e308) for k in (1, 3)]
    arrays, _ = play(RobustStrategy(FedAvg(), weighting="samples"), model, replies)
    assert arrays["w"] == 2


def test_types_are_kept_and_negative_variances_set_to_zero(lines: list[str]) -> None:
    model: Arrays = {
        "half": np.ones(2, dtype=np.float16),
        "bn.running_var": np.array([0.1, 5], dtype=np.float32),
        "mask": np.array([True, False]),
        "code": np.array([200], dtype=np.uint8),
    }
    upload = model | {
        "half": np.float16([0.5, 2]),
        "bn.running_var": np.float32([-3, 4]),
        "mask": np.array([False, True]),
        "code": np.array([255], dtype=np.uint8),
    }
    arrays, _ = play(RobustStrategy(Median()), model, [answer(node_of(k), upload) for k in range(3)])
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        name: str(values.dtype) for name, values in model.items()
    }
    np.testing.assert_array_equal(arrays["half"], [0.5, 2])
    np.testing.assert_array_equal(arrays["bn.running_var"], [0, 4])
    np.testing.assert_array_equal(arrays["mask"], [False, True])
    assert arrays["code"] == 255
    assert "round 1: 1 running variances came out negative and were set to 0" in lines


# ---------------------------------------------------------------------- who is who


def test_the_order_of_replies_changes_no_bit() -> None:
    model = start_model()
    for send_id in (True, False):
        results = []
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(CLIENTS).tolist()
            replies = [
                answer(node_of(k), trained(model, k, 0), **({"partition_id": k} if send_id else {})) for k in order
            ]
            results.append(flat(play(RobustStrategy(aggregators.RandomBucketClipping()), model, replies)[0]))
        assert all(np.array_equal(result, results[0]) for result in results)


def test_a_trusted_client_is_found_by_the_id_that_it_sends() -> None:
    model, uploads = {"w": np.zeros(1, dtype=np.float32)}, (0.0, 1.0, 1.25, 9.0)
    replies = [answer(node_of(k), {"w": np.float32([value])}, partition_id=10 * k) for k, value in enumerate(uploads)]
    arrays, metrics = play(RobustStrategy(MoNNA(b=1, trusted=20)), model, replies)
    assert metrics["combined-clients"] == [0, 10, 20, 30]
    assert arrays["w"] == pytest.approx(2.25 / 3)


def test_nodes_without_ids_are_numbered_as_they_appear() -> None:
    model, strategy = {"w": np.zeros(1, dtype=np.float32)}, RobustStrategy(Median(), client_id_key=None)

    def numbers(nodes: list[int]) -> Any:
        # An id that is sent does not matter here.
        return play(strategy, model, [answer(node, model, partition_id=1) for node in nodes])[1]["combined-clients"]

    assert numbers([2**64 - 1, 500]) == [0, 1]
    assert numbers([100, 500]) == [0, 2]
    assert numbers([2**64 - 1, 100, 300]) == [1, 2, 3]
    resumed = RobustStrategy(Median(), client_id_key=None)
    resumed.load_state_dict(strategy.state_dict())
    strategy = resumed
    assert numbers([300, 500, 50]) == [0, 3, 4]


def test_most_clients_of_the_first_round_decide_whether_ids_count() -> None:
    model = {"w": np.zeros(1, dtype=np.float32)}
    strategy = RobustStrategy(Median())
    one_mute = [answer(node_of(k), model, **({"partition_id": k} if k else {})) for k in range(3)]
    _, metrics = play(strategy, model, one_mute)
    assert metrics["combined-clients"] == [1, 2]
    assert strategy.faults == {node_of(0): "no partition-id among its metrics, which most clients send"}
    strategy = RobustStrategy(Median())
    one_speaks = [answer(node_of(k), model, **({} if k else {"partition_id": 900})) for k in range(3)]
    assert play(strategy, model, one_speaks)[1]["combined-clients"] == [0, 1, 2]
    all_speak = [answer(node_of(k), model, partition_id=k + 5) for k in range(3)]
    assert play(strategy, model, all_speak)[1]["combined-clients"] == [0, 1, 2]


# ---------------------------------------------------------------------- faults


def with_array(name: str, values: np.ndarray) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: values}


def raw(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (5,), stype: str = "numpy.ndarray") -> Array:
    return Array(dtype, shape, stype, data)


def saved(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **options)
    return stream.getvalue()


def zipped(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, values)
    return stream.getvalue()


BAD_ARRAYS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "NaN": (with_array("bn.bias", np.float32([0, 1, np.nan, 3, 4])), "NaN or infinite values"),
    "infinite": (with_array("a", np.float32(-np.inf)), "NaN or infinite values"),
    "missing": (lambda a: {k: v for k, v in a.items() if k != "bn.bias"}, "missing tensor 'bn.bias'"),
    "no counter": (lambda a: {k: v for k, v in a.items() if k != "bn.steps"}, "missing tensor 'bn.steps'"),
    "extra": (with_array("backdoor", np.float32([1])), "unexpected tensor 'backdoor'"),
    "empty": (lambda a: {}, "missing tensor 'conv.weight' and 3 more"),
    "shape": (with_array("bn.bias", np.zeros(6, "f4")), "tensor 'bn.bias' has shape (6,), not (5,)"),
    "transposed": (with_array("bn.bias", np.zeros((5, 1), "f4")), "tensor 'bn.bias' has shape (5, 1), not (5,)"),
    "double": (with_array("bn.bias", np.zeros(5)), "tensor 'bn.bias' is of float64, not float32"),
    "swapped": (with_array("bn.bias", np.zeros(5, ">f4")), "tensor 'bn.bias' is of >f4, not float32"),
    "float counter": (with_array("bn.steps", np.array(1.0)), "tensor 'bn.steps' is of float64, not int64"),
}
BAD_BYTES: dict[str, tuple[Array, str]] = {
    "another shape inside": (raw(saved(np.zeros(6, "f4"))), "tensor 'bn.bias' is not what it is declared to be"),
    "another type inside": (raw(saved(np.zeros(5, "i4"))), "tensor 'bn.bias' is not what it is declared to be"),
    "an archive": (raw(zipped(np.zeros(10**6, "f4"))), "tensor 'bn.bias' is not what it is declared to be"),
    "cut short": (raw(saved(np.zeros(5, "f4"))[:-3]), "tensor 'bn.bias' cannot be decoded (ValueError)"),
    "nothing": (raw(b""), "tensor 'bn.bias' cannot be decoded (EOFError)"),
    "pickled": (raw(saved([print] * 5, allow_pickle=True)), "tensor 'bn.bias' cannot be decoded (ValueError)"),
    "huge": (raw(saved(np.zeros(10**6, "f4"))), "tensor 'bn.bias' takes 4,000,128 bytes, not 20"),
    "other writer": (raw(b"x", stype="torch.tensor"), "tensor 'bn.bias' cannot be decoded (TypeError)"),
}
BAD_METRICS: dict[str, tuple[dict[str, Any], str]] = {
    "no examples": ({"num_examples": 0}, "num-examples is 0, not a positive number"),
    "fewer than none": ({"num_examples": -3.0}, "num-examples is -3.0, not a positive number"),
    "NaN examples": ({"num_examples": float("nan")}, "num-examples is nan, not a positive number"),
    "endless examples": ({"num_examples": float("inf")}, "num-examples is inf, not a positive number"),
    "many numbers": ({"num_examples": [1, 2]}, "num-examples is [1, 2], not a positive number"),
    "negative id": ({"partition_id": -1}, "partition-id is -1, not an integer of 0 .. 1023"),
    "large id": ({"partition_id": 1024}, "partition-id is 1024, not an integer of 0 .. 1023"),
    "broken id": ({"partition_id": 3.5}, "partition-id is 3.5, not an integer of 0 .. 1023"),
    "ids": ({"partition_id": [3]}, "partition-id is [3], not an integer of 0 .. 1023"),
}


def faulty(kind: str, model: Arrays) -> tuple[Message, str]:
    """Client 3 answers with this fault."""
    good, node = trained(model, 3, 0), node_of(3)
    if kind in BAD_ARRAYS:
        change, reason = BAD_ARRAYS[kind]
        return answer(node, change(good), partition_id=3), reason
    if kind in BAD_BYTES:
        arrays = record(good)
        arrays["bn.bias"], reason = BAD_BYTES[kind]
        return answer(node, arrays, partition_id=3), reason
    if kind in BAD_METRICS:
        metrics, reason = BAD_METRICS[kind]
        return answer(node, good, **({"partition_id": 3} | metrics)), reason
    told = MetricRecord({"num-examples": 1, "partition-id": 3})
    content, reason = {
        "no arrays": ({"metrics": told}, "0 ArrayRecords, not 1"),
        "two records": ({"metrics": told, "arrays": record(good), "more": record(good)}, "2 ArrayRecords, not 1"),
        "no metrics": ({"arrays": record(good)}, "0 MetricRecords, not 1"),
        "metrics twice": ({"arrays": record(good), "m": told, "n": told}, "2 MetricRecords, not 1"),
        "examples unsaid": (
            {"arrays": record(good), "metrics": MetricRecord({"partition-id": 3})},
            "no num-examples among its metrics",
        ),
    }[kind]
    return Message(RecordDict(content), reply_to=question(node)), reason


KINDS = [*BAD_ARRAYS, *BAD_BYTES, *BAD_METRICS]
KINDS += ["no arrays", "two records", "no metrics", "metrics twice", "examples unsaid"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_faulty_reply_is_left_out_and_named(kind: str, lines: list[str]) -> None:
    model = start_model()
    bad, reason = faulty(kind, model)
    others = [answer(node_of(k), trained(model, k, 0), partition_id=k) for k in (4, 0, 2, 1)]
    strategy = RobustStrategy(TrimmedMean(b=1))
    arrays, metrics = play(strategy, model, [others[0], bad, *others[1:]])
    clean, _ = play(RobustStrategy(TrimmedMean(b=1)), model, others)
    assert all(np.array_equal(arrays[name], clean[name]) for name in clean)
    assert strategy.faults == {node_of(3): reason}
    assert metrics["left-out-nodes"] == [node_of(3)]
    assert metrics["combined-clients"] == [0, 1, 2, 4]
    known = kind in BAD_ARRAYS or kind in BAD_BYTES or kind in ("no arrays", "two records")
    who = f"client 3 (node {node_of(3)})" if known else f"node {node_of(3)}"
    assert f"round 1: {who} is left out: {reason}" in lines


def test_a_client_that_answers_with_an_error_is_left_out() -> None:
    model = start_model()
    good = [answer(node_of(k), trained(model, k, 0)) for k in range(3)]
    strategy = RobustStrategy(Median())
    play(strategy, model, [Message(Error(2, "out of memory"), reply_to=question(7)), *good])
    assert strategy.faults == {7: "error 2: out of memory"}


def test_two_clients_with_one_id_are_both_left_out() -> None:
    model = start_model()
    replies = [answer(node_of(k), trained(model, k, 0), partition_id=min(k, 3)) for k in range(5)]
    strategy = RobustStrategy(Median())
    _, metrics = play(strategy, model, replies)
    assert metrics["combined-clients"] == [0, 1, 2]
    assert strategy.faults == {node_of(k): "2 replies have partition-id 3" for k in (3, 4)}


def test_integers_come_from_the_first_good_client() -> None:
    model = start_model()
    bad, _ = faulty("NaN", model)
    bad.content["metrics"]["partition-id"] = 0
    replies = [answer(node_of(k), trained(model, k, 0), partition_id=k) for k in (5, 1, 2)]
    arrays, _ = play(RobustStrategy(Median()), model, [*replies, bad])
    assert arrays["bn.steps"] == trained(model, 1, 0)["bn.steps"]


def test_a_number_that_overflows_the_difference_is_a_fault() -> None:
    model = {"w": np.float32([-3e38])}
    good = [answer(node_of(k), model, partition_id=k) for k in range(2)]
    strategy = RobustStrategy(FedAvg())
    arrays, _ = play(strategy, model, [*good, answer(node_of(2), {"w": np.float32([3e38])}, partition_id=2)])
    assert strategy.faults == {node_of(2): "NaN or infinite values"}
    assert arrays["w"] == model["w"]


def test_metrics_of_a_hostile_client_do_not_stop_the_round() -> None:
    model = start_model()
    strange = [{"loss": [1.0, 2.0]}, {"accuracy": 1.0}, {"loss": float("nan")}]
    good = [answer(node_of(k), trained(model, k, 0), loss=k + 0.5, partition_id=k) for k in range(3)]
    _, metrics = play(RobustStrategy(Median()), model, good)
    assert metrics["loss"] == pytest.approx(1.5)
    for told in strange[:2]:
        _, metrics = play(RobustStrategy(Median()), model, [*good, answer(9, model, partition_id=3, **told)])
        assert "loss" not in metrics
        assert metrics["combined-clients"] == [0, 1, 2, 3]
    _, metrics = play(RobustStrategy(Median()), model, [*good, answer(9, model, partition_id=3, **strange[2])])
    assert np.isnan(metrics["loss"])


@pytest.mark.parametrize(
    ("rule", "options", "good", "reason"),
    [
        (lambda: Median(), {"min_clients": 4}, 3, "needs 4"),
        (lambda: Krum(b=2), {}, 4, "Krum needs"),
        (lambda: FedAvg(), {}, 0, "needs"),
        (lambda: PreAggregated([NNM(1)], TrimmedMean(2)), {}, 4, "TrimmedMean needs"),
    ],
)
def test_too_few_good_replies_end_the_run(
    rule: Callable[[], VectorAggregator], options: dict[str, int], good: int, reason: str, tmp_path: Path
) -> None:
    model = start_model()
    bad = [Message(Error(2, "killed"), reply_to=question(7)), faulty("NaN", model)[0]]
    replies = [answer(node_of(k), trained(model, k, 0), partition_id=k) for k in (8, 7, 6, 5)[:good]]
    strategy = RobustStrategy(rule(), state_file=tmp_path / "state", **options)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=f"round 1 has {good} good replies of {good + 2}: .*{reason}") as told:
        play(strategy, model, [*replies, *bad])
    assert f"node 7: error 2: killed; node {node_of(3)}: NaN or infinite values" in str(told.value)
    assert strategy.round == 0
    assert not (tmp_path / "state").exists()
    assert all(np.array_equal(values, model[name]) for name, values in unpacked(strategy.arrays).items())


def test_no_reply_at_all_ends_the_run() -> None:
    with pytest.raises(RunError, match=re.escape("round 1 has 0 good replies of 0: ")):
        play(RobustStrategy(Median()), start_model(), [])


def test_a_result_that_is_not_finite_ends_the_run() -> None:
    model = {"w": np.float16([1.0])}
    upload = {"w": np.float16([65504])}

    class Doubled(FedAvg):
        def combine(self, updates: Tensor, **rest: Any) -> Tensor:
            return 2 * updates.mean(0)

    with pytest.raises(RunError, match="round 1: Doubled gives a global model that is not finite"):
        play(RobustStrategy(Doubled()), model, [answer(node_of(k), upload) for k in range(2)])


def test_faults_in_the_evaluation_leave_a_client_out(lines: list[str]) -> None:
    strategy = RobustStrategy(Median())
    told: list[RecordDict] = [
        RecordDict({"m": MetricRecord({"num-examples": 1, "accuracy": 0.5})}),
        RecordDict({"m": MetricRecord({"num-examples": 3, "accuracy": 1.0, "extra": 2})}),
        RecordDict({"m": MetricRecord({"num-examples": 0, "accuracy": 0.0})}),
        RecordDict(),
    ]
    replies = [Message(content, reply_to=question(node)) for node, content in enumerate(told)]
    replies.append(Message(Error(1, "gone"), reply_to=question(4)))
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics is not None
    assert dict(metrics) == {"accuracy": pytest.approx(0.875)}
    assert "round 0: node 2 is left out of the evaluation: num-examples is 0, not a positive number" in lines
    assert "round 0: node 4 is left out of the evaluation: error 1: gone" in lines
    assert strategy.aggregate_evaluate(1, replies[2:]) is None
    assert "round 0: nobody evaluated the global model" in lines


# ---------------------------------------------------------------------- whole runs, and restarts


@pytest.mark.parametrize("send_id", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_a_restarted_server_goes_on_as_if_nothing_had_happened(name: str, send_id: bool, tmp_path: Path) -> None:
    model, options = record(start_model()), {"fraction_evaluate": 0.5}
    whole = strategy_of(make(name), **options).start(Nodes(send_id=send_id), model, num_rounds=4)
    file = tmp_path / "server.safetensors"
    strategy_of(make(name), state_file=file, **options).start(Nodes(send_id=send_id), model, num_rounds=2)
    grid, seen = Nodes(send_id=send_id), []
    resumed = strategy_of(make(name), state_file=str(file), **options)
    result = resumed.start(
        grid,
        model,
        num_rounds=4,
        evaluate_fn=lambda round, arrays: seen.append(round),  # type: ignore[func-returns-value]
    )
    assert set(grid.rounds) == {3, 4}
    assert seen == [2, 3, 4]
    assert list(result.train_metrics_clientapp) == list(result.evaluate_metrics_clientapp) == [3, 4]
    expected, found = unpacked(whole.arrays), unpacked(result.arrays)
    assert list(expected) == list(found)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    for round in (3, 4):
        one, other = whole.train_metrics_clientapp[round], result.train_metrics_clientapp[round]
        np.testing.assert_equal(dict(one), dict(other))


def test_numbers_of_double_precision_survive_a_restart(tmp_path: Path) -> None:
    model, file = record(start_model("float64")), tmp_path / "server.safetensors"
    whole = RobustStrategy(FedSECA()).start(Nodes(), model, num_rounds=3)
    RobustStrategy(FedSECA(), state_file=file).start(Nodes(), model, num_rounds=1)
    resumed = RobustStrategy(FedSECA(), state_file=file).start(Nodes(), model, num_rounds=3)
    np.testing.assert_array_equal(flat(unpacked(whole.arrays)), flat(unpacked(resumed.arrays)))
    assert flat(unpacked(whole.arrays)).dtype == np.float64


def test_a_finished_run_gives_its_model_again(tmp_path: Path) -> None:
    model, file = record(start_model()), tmp_path / "server.safetensors"
    first = RobustStrategy(Median(), state_file=file).start(Nodes(), model, num_rounds=2)
    again = RobustStrategy(Median(), state_file=file).start(Nodes([]), model, num_rounds=2)
    np.testing.assert_array_equal(flat(unpacked(first.arrays)), flat(unpacked(again.arrays)))
    assert not again.train_metrics_clientapp


def test_a_part_of_the_nodes_trains_and_enough_for_the_rule() -> None:
    grid = Nodes()
    strategy = RobustStrategy(Krum(b=2), fraction_train=0.25)
    result = strategy.start(grid, record(start_model()), num_rounds=2)
    assert len(grid.rounds) == 2 * (5 + 8)  # Krum with b = 2 needs five; all evaluate
    assert all(len(metrics["combined-clients"]) == 5 for metrics in result.train_metrics_clientapp.values())
    strategy.summary()


def test_without_training_the_model_stays_and_is_evaluated() -> None:
    model = start_model()
    result = RobustStrategy(Krum(b=2), fraction_train=0.0).start(Nodes(), record(model), num_rounds=1)
    assert all(np.array_equal(values, model[name]) for name, values in unpacked(result.arrays).items())
    assert not result.train_metrics_clientapp
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx(sum(k * (10 + k) for k in range(8)) / 108)


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file, model = tmp_path / "server.safetensors", record(start_model())
    RobustStrategy(FedSECA(), state_file=file).start(Nodes(), model, num_rounds=1)
    state = load_tensors(file, "state_file")
    with pytest.raises(UsageError, match=r"the state is not one of CoordinateMedian: .*momentum"):
        RobustStrategy(Median()).load_state_dict(state)
    other = start_model() | {"more": np.zeros(2, dtype=np.float32)}
    with pytest.raises(UsageError, match=r"the state to go on from belongs to another model: .* 1 missing"):
        RobustStrategy(FedSECA(), state_file=file).start(Nodes(), record(other), num_rounds=2)
    with pytest.raises(UsageError, match="client_id_key must name it, got None"):
        RobustStrategy(FedSECA(), client_id_key=None).load_state_dict(state)
    save_tensors(file, {"weight": torch.zeros(2)})
    with pytest.raises(UsageError, match="not one of a RobustStrategy: 'round' is missing"):
        RobustStrategy(FedSECA(), state_file=file).start(Nodes(), model, num_rounds=2)
    file.write_bytes(b"\x80\x04N.")
    with pytest.raises(UsageError, match="state_file is damaged"):
        RobustStrategy(FedSECA(), state_file=file).start(Nodes(), model, num_rounds=2)


@pytest.mark.parametrize(
    ("make_it", "told"),
    [
        (lambda: RobustStrategy("Krum"), "aggregator must be a VectorAggregator, got str"),
        (lambda: RobustStrategy(Median(), weighting="images"), "weighting must be equal or samples, got 'images'"),
        (lambda: RobustStrategy(Median(), min_clients=0), "min_clients must be at least 1, got 0"),
        (lambda: RobustStrategy(Median(), max_clients=0), "max_clients must be at least 1, got 0"),
        (lambda: RobustStrategy(Krum(b=2), min_train_nodes=3), "min_train_nodes must be at least the 5 that a round"),
        (lambda: RobustStrategy(FLTrust()), "FLTrust needs a reference: reference_fn must be given, got None"),
        (lambda: play(RobustStrategy(Median()), {"n": np.array([1])}, []), "must have a floating point array"),
        (lambda: play(RobustStrategy(Median()), {"z": np.array([1j])}, []), "array 'z' must hold real numbers"),
        (lambda: play(RobustStrategy(Median()), {"s": np.array(["a"])}, []), "array 's' must hold numbers"),
        (lambda: play(RobustStrategy(Median()), {"w": np.array([np.nan])}, []), "the global model must be finite"),
    ],
)
def test_wrong_options_and_models_are_refused(make_it: Callable[[], Any], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        make_it()


def test_what_comes_too_early_is_refused() -> None:
    with pytest.raises(RunError, match="configure_train must come before"):
        RobustStrategy(Median()).aggregate_train(1, [])
    with pytest.raises(RunError, match="no state before configure_train"):
        RobustStrategy(Median()).state_dict()


def test_a_reference_of_another_model_is_refused() -> None:
    strategy = RobustStrategy(FLTrust(), reference_fn=lambda round, arrays: record({"other": np.zeros(2)}))
    model = start_model()
    with pytest.raises(UsageError, match="what reference_fn returns belongs to another model"):
        play(strategy, model, [answer(node_of(k), trained(model, k, 0)) for k in range(3)])


# ---------------------------------------------------------------------- differential privacy


class PrivateNodes(Nodes):
    """Clients are apps that clip their updates to length 0.25 and add noise to them."""

    def __init__(self, sensitivity: float) -> None:
        super().__init__(range(5))
        self.uploads: dict[int, Arrays] = {}
        self.app = ClientApp(mods=[LocalDpMod(0.25, sensitivity, epsilon=1.0, delta=1e-5)])
        self.app.train()(lambda message, context: Nodes.reply(self, message, context.node_config["partition-id"], 1))

    def reply(self, message: Message, client: int, round: int) -> Message:
        node = node_of(client)
        try:
            reply = self.app(message, Context(1, node, {"partition-id": client}, state=RecordDict(), run_config={}))
        except TypeError as error:  # Flower answers for a client that raises
            return Message(Error(2, type(error).__name__.lstrip("_")), reply_to=message)
        self.uploads[client] = unpacked(reply.content["arrays"])
        return reply


@pytest.fixture
def _numpy_seed() -> Iterator[None]:
    """The mod draws from numpy's global state."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    yield
    np.random.set_state(before)  # noqa: NPY002


@pytest.mark.usefixtures("_numpy_seed")
@pytest.mark.parametrize("sensitivity", [0.0, 0.01])
def test_the_rule_sees_updates_clipped_and_with_noise(sensitivity: float) -> None:
    model = {name: values for name, values in start_model().items() if values.shape}
    grid = PrivateNodes(sensitivity)
    result = RobustStrategy(FedSECA(), fraction_evaluate=0.0).start(grid, record(model), num_rounds=1)
    origin = torch.from_numpy(flat(model))
    updates = torch.stack([origin - torch.from_numpy(flat(grid.uploads[client])) for client in range(5)])
    honest = torch.stack([origin - torch.from_numpy(flat(trained(model, client, 1))) for client in range(5)])
    clipped = honest * 0.25 / honest.norm(dim=1, keepdim=True)
    noise = sensitivity * (2 * np.log(1.25 / 1e-5)) ** 0.5
    assert (updates - clipped).std().item() == pytest.approx(noise, rel=0.25, abs=1e-6)
    np.testing.assert_array_equal(flat(unpacked(result.arrays)), origin - FedSECA()(updates, origin=origin))


@pytest.mark.usefixtures("_numpy_seed")
def test_the_mod_passes_arrays_without_dimensions_as_they_are() -> None:
    model, grid = start_model(), PrivateNodes(sensitivity=1.0)
    strategy = RobustStrategy(FedSECA(), fraction_evaluate=0.0)
    strategy.start(grid, record(model), num_rounds=1)
    for client in range(5):
        honest, upload = trained(model, client, 1), grid.uploads[client]
        assert (upload["a"], upload["bn.steps"]) == (honest["a"], honest["bn.steps"])
        assert np.abs(upload["bn.bias"] - honest["bn.bias"]).max() > 1
    assert not strategy.faults


@pytest.mark.usefixtures("_numpy_seed")
def test_the_mod_fails_on_integers_that_it_has_to_clip() -> None:
    model = {"conv.weight": start_model()["conv.weight"], "steps": np.array([7])}
    with pytest.raises(RunError, match=r"round 1 has 0 good replies of 5: .*node .*: error 2: UFuncTypeError"):
        RobustStrategy(FedSECA(), fraction_evaluate=0.0).start(PrivateNodes(0.0), record(model), num_rounds=1)


# ---------------------------------------------------------------------- the example


def test_the_example_finds_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))

    class Apps(Nodes):
        def reply(self, message: Message, client: int, round: int) -> Message:
            context = Context(1, node_of(client), {"partition-id": client}, state=RecordDict(), run_config={})
            reply: Message = example["client_app"](message, context)
            return reply

    example["server_app"](Apps(range(10)), Context(1, 0, {}, state=RecordDict(), run_config={}))
    assert capsys.readouterr().out == "found [ 2. -3.  1.] true [ 2. -3.  1.]\n"


@pytest.mark.slow
def test_the_example_in_a_real_simulation(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, EXAMPLE],
        env=os.environ | {"FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "found [ 2. -3.  1.] true [ 2. -3.  1.]\n" in told.stdout, told.stderr
