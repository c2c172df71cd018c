"""Rounds over a grid are the rounds of one process, bit for bit, and nothing that a node answers breaks them."""

import csv
import json
import pickle
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from torch.optim import AdamW

from shared.errors import RunError, UsageError
from shared.federated import server_work
from shared.federated.aggregation import VectorAggregator
from shared.federated.client import ClientTraining
from shared.federated.client_work import Failed
from shared.federated.fedavg import FedAvg
from shared.federated.flower.messages import from_arrays, from_payload, one_line, read_answer, to_arrays, to_payload

Make = Callable[..., Any]
KEEPING = partial(AdamW, lr=0.01)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def keeping() -> ClientTraining:
    return ClientTraining(optimizer=KEEPING, keep_optimizer=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"client": keeping, "participation": 0.5, "weighting": "samples"}, {"include_buffers": False}],
    ids=["plain", "moments and participation", "buffers apart"],
)
def test_over_a_grid_equals_in_process(
    options: dict[str, Any], make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    def made() -> Any:
        return make_module(**{name: value() if callable(value) else value for name, value in options.items()})

    alone = made()
    make_trainer(3, "alone").fit(alone, datamodule=make_data())
    grid = make_grid(made)
    together = over(made(), grid)
    make_trainer(3, "together").fit(together, datamodule=make_data())
    assert_same(alone, together)
    assert alone.ledger.totals == together.ledger.totals
    assert together.describe()["engine"] == "flower"


def assert_same(one: Any, other: Any) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


def test_a_restarted_server_resumes_at_the_next_round(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    """Also with other nodes, which know the clients' states from files alone."""
    made = partial(make_module, client=keeping())
    alone = made()
    make_trainer(4, "alone").fit(alone, datamodule=make_data())
    states = tmp_path / "states"
    first = over(made(), make_grid(made, states=states))
    make_trainer(2, "flower").fit(first, datamodule=make_data())
    checkpoint = max((tmp_path / "flower/checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    second = over(made(), make_grid(made, states=states))
    make_trainer(4, "flower").fit(second, datamodule=make_data(), ckpt_path=str(checkpoint), weights_only=True)
    assert_same(alone, second)
    assert [row["round"] for row in rounds(tmp_path / "flower")] == ["0", "1", "2", "3"]
    third = over(made(), make_grid(made))
    with pytest.raises(RunError, match="the state of client 0 after round 1 is missing: a node keeps it"):
        make_trainer(4, "flower").fit(third, datamodule=make_data(), ckpt_path=str(checkpoint), weights_only=True)


def rounds(folder: Path) -> list[dict[str, str]]:
    with (folder / "rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------- what nodes answer


def tensors(answer: Message) -> dict[str, torch.Tensor]:
    return from_payload(answer.content["tensors"])


def with_tensors(answer: Message, tensors: dict[str, torch.Tensor]) -> Message:
    answer.content["tensors"] = to_payload(tensors)
    return answer


def with_bytes(answer: Message, data: bytes, stype: str = "safetensors") -> Message:
    array = Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)
    answer.content["tensors"] = ArrayRecord({"payload": array})
    return answer


def nan(answer: Message) -> Message:
    changed = tensors(answer)
    changed["network.0.weight"].view(-1)[0] = torch.nan
    return with_tensors(answer, changed)


def wrong_shape(answer: Message) -> Message:
    changed = tensors(answer)
    return with_tensors(answer, changed | {"network.0.weight": changed["network.0.weight"][:, :, :, :2]})


def wrong_type(answer: Message) -> Message:
    changed = tensors(answer)
    return with_tensors(answer, changed | {"network.0.weight": changed["network.0.weight"].int()})


def extra_key(answer: Message) -> Message:
    return with_tensors(answer, tensors(answer) | {"stranger": torch.zeros(1)})


def missing_key(answer: Message) -> Message:
    changed = tensors(answer)
    del changed["network.0.weight"]
    return with_tensors(answer, changed)


def zero_samples(answer: Message) -> Message:
    answer.content["report"]["num-examples"] = 0
    return answer


def negative_samples(answer: Message) -> Message:
    answer.content["report"]["num-examples"] = -3
    return answer


def huge(answer: Message) -> Message:
    return with_tensors(answer, tensors(answer) | {"network.0.weight": torch.zeros(10**6)})


def lying_header(answer: Message) -> Message:
    """Announces a matrix of 4 TB and brings nothing."""
    matrix = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
    header = json.dumps({"network.0.weight": matrix}).encode()
    return with_bytes(answer, len(header).to_bytes(8, "little") + header)


def a_pickle(answer: Message) -> Message:
    return with_bytes(answer, pickle.dumps(print))


def garbage(answer: Message) -> Message:
    return with_bytes(answer, b"no tensors")


def numpy_arrays(answer: Message) -> Message:
    answer.content["tensors"] = to_arrays(tensors(answer))
    return answer


def nothing(answer: Message) -> Message:
    del answer.content["tensors"]
    return answer


def an_error(answer: Message) -> Message:
    wrong = Message(Error(code=2, reason="killed\n\x1b[31m"), reply_to=answer)
    wrong.metadata.__dict__["_reply_to_message_id"] = answer.metadata.reply_to_message_id
    return wrong


FAULTS: dict[Callable[[Message], Message | None], str] = {
    nan: "NaN or infinite values",
    wrong_shape: "tensor 'network.0.weight' has shape (4, 1, 3, 2), not (4, 1, 3, 3)",
    wrong_type: "tensor 'network.0.weight' has type int32, not float32",
    extra_key: "unexpected tensor 'stranger'",
    missing_key: "missing tensor 'network.0.weight'",
    zero_samples: "no training samples",
    negative_samples: "num-examples must be a whole number from 0 on, got -3",
    huge: "payload of ",
    lying_header: "unreadable answer (SafetensorError: ",
    a_pickle: "unreadable answer (SafetensorError: ",
    garbage: "unreadable answer (SafetensorError: ",
    numpy_arrays: "an answer must hold one array, 'payload', of kind safetensors, got {'network.0.weight': ",
    nothing: "an answer must hold the records tensors and report, got ['report']",
    an_error: "no answer: killed [31m",
}


@pytest.mark.parametrize("fault", [*FAULTS, None], ids=lambda fault: fault.__name__ if fault else "silence")
def test_a_bad_answer_is_named_counted_and_left_out(
    fault: Callable[[Message], Message] | None,
    make_module: Make,
    make_data: Make,
    make_trainer: Make,
    make_grid: Make,
    over: Make,
    tmp_path: Path,
) -> None:
    """The round goes on as if the client had not been there."""
    grid = make_grid(make_module)
    grid.change = lambda round, client, answer: (
        answer if (round, client) != (1, 2) else None if fault is None else fault(answer)
    )
    module = over(make_module(), grid)
    make_trainer(2, "flower").fit(module, datamodule=make_data())
    failures = [row["failures"] for row in rounds(tmp_path / "flower")]
    assert failures[0] == ""
    wanted = FAULTS[fault] if fault else "no answer within 0.2 s"
    assert failures[1].startswith(f"2: {wanted}"), failures[1]
    assert module.client_rounds == {0: 1, 1: 1, 2: 0, 3: 1}
    with (tmp_path / "flower/ledger.csv").open(newline="") as file:
        ups = {(r["round"], r["client"]) for r in csv.DictReader(file) if r["direction"] == "up"}
    assert ("0", "2") in ups
    assert ("1", "2") not in ups

    without = make_module()
    work = without.train_client
    without.train_client = lambda round, client, *rest: (
        1 / 0 if (round, client) == (1, 2) else work(round, client, *rest)
    )
    make_trainer(2, "alone").fit(without, datamodule=make_data())
    assert_same(without, module)


def test_when_all_fail_the_run_stops_and_the_checkpoint_is_whole(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    grid = make_grid(make_module)
    grid.change = lambda round, client, answer: answer if round == 0 else None
    module = over(make_module(), grid)
    with pytest.raises(RunError, match=r"round 1 has 0 good uploads of 4, needs 1 .client 0: no answer within 0.2 s"):
        make_trainer(3, "flower").fit(module, datamodule=make_data())
    [checkpoint] = (tmp_path / "flower/checkpoints").iterdir()
    again = over(make_module(), make_grid(make_module))
    make_trainer(3, "flower").fit(again, datamodule=make_data(), ckpt_path=str(checkpoint), weights_only=True)
    alone = make_module()
    make_trainer(3, "alone").fit(alone, datamodule=make_data())
    assert_same(alone, again)


def test_what_a_client_raises_is_told_in_its_words(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    def broken() -> Any:
        module = make_module()
        work = module.train_client
        module.train_client = lambda round, client, *rest: work(round, client, *rest) if client else [][client]
        return module

    module = over(make_module(), make_grid(broken))
    make_trainer(1, "flower").fit(module, datamodule=make_data())
    assert rounds(tmp_path / "flower")[0]["failures"] == "0: IndexError: list index out of range"


# ---------------------------------------------------------------------- who is who


def test_a_missing_node_is_named(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    grid = make_grid(make_module)
    del grid.contexts[102]
    with pytest.raises(RunError, match="no node has partition-id 2, of 4 clients, after 1 s"):
        make_trainer(1).fit(over(make_module(), grid), datamodule=make_data())


def test_a_node_whose_process_dies_at_the_start_is_asked_again(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    grid = make_grid(make_module)
    app, died = grid.app, []

    def dies_once(message: Message, context: Any) -> Message:
        if context.node_id == 101 and not died:
            died.append(message.metadata.message_type)
            return Message(Error(code=2, reason="its process died"), reply_to=message)
        return app(message, context)

    grid.app = dies_once
    make_trainer(1, "flower").fit(over(make_module(), grid, at_once=2), datamodule=make_data())
    assert died == ["query"]
    assert rounds(tmp_path / "flower")[0]["failures"] == ""


def test_fewer_nodes_at_once_than_there_are(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    grid = make_grid(make_module)
    make_trainer(1).fit(over(make_module(), grid, at_once=2), datamodule=make_data())
    assert grid.most_open == 2


def test_two_nodes_with_one_id_are_refused(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    grid = make_grid(make_module, config={3: {"partition-id": 1}})
    with pytest.raises(UsageError, match="partition-id must be another one for every node, got 1 twice"):
        make_trainer(1).fit(over(make_module(), grid), datamodule=make_data())


def test_a_node_without_id_is_told(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    grid = make_grid(make_module)
    del grid.contexts[103].node_config["partition-id"]
    grid.contexts[103].node_config["num-partitions"] = 4
    told = "node 103: UsageError: partition-id must be a whole number in the node config, got None"
    with pytest.raises(RunError, match=re.escape(told)):
        make_trainer(1).fit(over(make_module(), grid), datamodule=make_data())


def test_a_node_with_other_frozen_weights_is_refused(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    def made(frozen: float) -> Any:
        module = make_module(kind=HeadOnly)
        module.local.network[0].weight.data.fill_(frozen)
        return module

    grid = make_grid(partial(made, 1.0))
    with pytest.raises(RunError, match="the weights that nobody trains differ from the server's at client 0"):
        make_trainer(1).fit(over(made(2.0), grid), datamodule=make_data())
    make_trainer(1).fit(over(made(1.0), make_grid(partial(made, 1.0))), datamodule=make_data())


from shared.federated.module import FederatedModule  # noqa: E402


class HeadOnly(FederatedModule):
    """The first layer is never sent."""

    def __init__(self, local: Any, *arguments: Any, **options: Any) -> None:
        local.network[0].requires_grad_(False)
        super().__init__(local, *arguments, **options)

    def communicated(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.local.state_dict().items() if not name.startswith("network.0.")}


def test_a_node_that_comes_back_takes_part_again(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    grid = make_grid(make_module)

    def change(round: int, client: int, answer: Message) -> Message:
        if (round, client) == (0, 3):
            del grid.contexts[101]  # after its answer
        if (round, client) == (1, 3):
            grid.contexts[201] = grid.context(1, 4, {})
        return answer

    grid.change = change
    make_trainer(3, "flower").fit(over(make_module(), grid), datamodule=make_data())
    failures = [row["failures"] for row in rounds(tmp_path / "flower")]
    assert failures == ["", "1: its node is not connected", ""]


def test_a_node_may_count_its_own_data_differently(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    """Client 2 finds its data as client 0 of its own data set."""
    seen = []

    def data() -> Any:
        made = make_data()
        loader = made.client_loader
        made.client_loader = lambda client, generator: (seen.append(client), loader(client, generator))[1]
        return made

    grid = make_grid(make_module, data=data, config={2: {"data-client": 0}})
    make_trainer(1).fit(over(make_module(), grid), datamodule=make_data())
    assert seen == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"regime": "local"}, "engine flower needs model.regime federated, got local"),
        ({"client": ClientTraining(batched="always")}, "client.batched must be auto or never with engine flower"),
    ],
)
def test_what_nodes_cannot_do_is_refused(
    options: dict[str, Any],
    told: str,
    make_module: Make,
    make_data: Make,
    make_trainer: Make,
    make_grid: Make,
    over: Make,
) -> None:
    with pytest.raises(UsageError, match=told):
        make_trainer(1).fit(over(make_module(**options), make_grid(make_module)), datamodule=make_data())


def test_a_grid_is_dealt_with_by_one_process(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(1)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(UsageError, match="engine flower needs one process, got 2"):
        trainer.fit(over(make_module(), make_grid(make_module)), datamodule=make_data())


def test_scores_of_models_that_stay_elsewhere_are_refused(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make
) -> None:
    module = make_module()
    module.personal = lambda: {"network.4.bias": module.local.state_dict()["network.4.bias"]}
    module.communicated = lambda: {
        name: tensor for name, tensor in module.local.state_dict().items() if name != "network.4.bias"
    }
    told = r"can be scored only where these are: trainer.limit_val_batches must be 0, got 1.0"
    with pytest.raises(UsageError, match=told):
        make_trainer(1).fit(over(module, make_grid(make_module)), datamodule=make_data())


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_a_streamed_round_is_the_same_in_both_engines_and_close_to_the_matrix(
    weighting: str,
    make_module: Make,
    make_data: Make,
    make_trainer: Make,
    make_grid: Make,
    over: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = partial(make_module, weighting=weighting)
    whole = made()
    make_trainer(2).fit(whole, datamodule=make_data())
    monkeypatch.setattr(server_work, "STREAMED_FROM", 0)
    alone, grid = made(), make_grid(made)
    make_trainer(2).fit(alone, datamodule=make_data())
    together = over(made(), grid, window=2)
    grid.most_open = 0
    make_trainer(2).fit(together, datamodule=make_data())
    assert_same(alone, together)
    assert len(alone._scratch["buffer"]) == 2  # the origin and one row for all clients
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_window_limits_what_is_open(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_work, "STREAMED_FROM", 0)
    grid = make_grid(make_module)
    module = over(make_module(), grid, window=2)
    start = module.engine.start

    def started(module: Any) -> None:
        start(module)
        grid.most_open = 0

    module.engine.start = started
    make_trainer(1).fit(module, datamodule=make_data())
    assert grid.most_open == 2


def test_hostile_clients_and_other_rules_do_not_stream(
    make_module: Make, make_data: Make, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_work, "STREAMED_FROM", 0)

    class Other(VectorAggregator):
        def combine(self, updates: torch.Tensor, **options: Any) -> torch.Tensor:
            return updates.mean(0)

    for aggregator, byzantine, streams in ((FedAvg(), [], True), (FedAvg(), [1], False), (Other(), [], False)):
        module = make_module(aggregator, byzantine=byzantine)
        make_trainer(1).fit(module, datamodule=make_data())
        assert module.streams([0, 1, 2]) == streams
        assert module.streams([0, 2]) == (streams or (byzantine != []))


# ---------------------------------------------------------------------- bytes and privacy


def test_payload_on_the_wire_is_what_the_ledger_counts(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    """To the byte; the frame that Flower puts around it has the same size for every model."""
    grid = make_grid(make_module)
    counted: dict[tuple[str, str, str], int] = defaultdict(int)
    sent: dict[tuple[str, str, str], tuple[int, int]] = {}

    def change(round: int, client: int, answer: Message) -> Message:
        sent[str(round), str(client), "up"] = payload_and_frame(answer)
        return answer

    grid.change = change
    make_trainer(2, "flower").fit(over(make_module(), grid), datamodule=make_data())
    for client, kind, message in grid.sent:
        if kind == "train":
            sent[str(message.content["task"]["round"]), str(client), "down"] = payload_and_frame(message)
    with (tmp_path / "flower/ledger.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            counted[row["round"], row["client"], row["direction"]] += int(row["bytes"])
    assert {message: payload for message, (payload, _) in sent.items()} == counted
    assert len(counted) == 2 * 4 * 2
    assert max(frame for _, frame in sent.values()) < 2000


def payload_and_frame(message: Message) -> tuple[int, int]:
    """Bytes of the tensors, and of all else that Flower sends of a message's content."""
    payload = sum(len(array.data) for array in message.content["tensors"].values())
    return payload, sum(len(part.deflate()) for part in get_all_nested_objects(message.content).values()) - payload


def test_a_node_can_clip_and_add_noise(
    make_data: Make, make_trainer: Make, make_grid: Make, over: Make, make_module: Make
) -> None:
    """With hardly any noise, what is left is the clipping: no update is longer than the norm."""
    privacy = {"dp-clipping-norm": 0.01, "dp-sensitivity": 1e-12, "dp-epsilon": 1.0, "dp-delta": 1e-5}
    grid = make_grid(partial(make_module, kind=HeadWithoutCounters), config=dict.fromkeys(range(4), privacy))
    module = over(make_module(kind=HeadWithoutCounters), grid)
    before = {name: tensor.clone() for name, tensor in module.communicated().items()}
    lengths = []

    def change(round: int, client: int, answer: Message) -> Message:
        difference = [tensor - before[name] for name, tensor in tensors(answer).items()]
        lengths.append(float(sum(d.square().sum() for d in difference).sqrt()))
        return answer

    grid.change = change
    make_trainer(1).fit(module, datamodule=make_data())
    assert lengths == pytest.approx([0.01] * 4, rel=1e-3)


def test_half_a_wish_for_privacy_is_refused(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    grid = make_grid(make_module, config={0: {"dp-clipping-norm": 1.0}})
    make_trainer(1, "flower").fit(over(make_module(), grid), datamodule=make_data())
    told = "0: UsageError: dp-sensitivity in the node config must be a number above 0, got None"
    assert rounds(tmp_path / "flower")[0]["failures"] == told


def test_privacy_needs_tensors_that_noise_can_be_added_to(
    make_module: Make, make_data: Make, make_trainer: Make, make_grid: Make, over: Make, tmp_path: Path
) -> None:
    """Flower's mod would send BatchNorm's counter as it is, and clip the weights by the counter's size."""
    privacy = {"dp-clipping-norm": 1.0, "dp-sensitivity": 1.0, "dp-epsilon": 1.0, "dp-delta": 1e-5}
    grid = make_grid(make_module, config={2: privacy})
    make_trainer(1, "flower").fit(over(make_module(), grid), datamodule=make_data())
    told = (
        "2: UsageError: dp-clipping-norm in the node config needs a model that sends floating point tensors of one "
        "dimension or more, got network.1.num_batches_tracked of int64 with 0 dimensions: use a network without "
        "BatchNorm's counters and single numbers, or no dp-"
    )
    assert rounds(tmp_path / "flower")[0]["failures"] == told


def test_what_the_mod_of_flower_does_to_counters() -> None:
    """Why they are refused: Flower 1.41 lets them through, and they shrink everything else."""
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=1e-12, epsilon=1.0, delta=1e-5)
    start = to_arrays({"w": torch.zeros(1), "steps": torch.tensor(0)})
    trained = to_arrays({"w": torch.ones(1), "steps": torch.tensor(100)})
    order = Message(RecordDict({"tensors": start}), dst_node_id=1, message_type="train")
    sent = mod(order, None, lambda message, context: Message(RecordDict({"tensors": trained}), reply_to=message))
    left = from_arrays(sent.content["tensors"])
    assert left["steps"] == 100
    assert left["w"].item() == pytest.approx(0.01, rel=1e-3)


class HeadWithoutCounters(HeadOnly):
    """Sends what has no running statistics."""

    def __init__(self, local: Any, *arguments: Any, **options: Any) -> None:
        local.network[1].requires_grad_(False)
        super().__init__(local, *arguments, **options)

    def communicated(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.local.state_dict().items() if name.startswith("network.4.")}


def test_a_strangers_words_fit_into_a_line() -> None:
    assert one_line("x" * 1000) == "x" * 299 + "…"
    outcome = read_answer(None, {}, 0, 5)
    assert isinstance(outcome, Failed)
    assert str(outcome) == "no answer within 5 s"
