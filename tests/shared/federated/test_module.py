"""The engine: a round against a plain loop, exact resume, failures, ledger, partial participation."""

import csv
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from shared.errors import RunError, UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining, LocalResult, batch_size
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule
from shared.federated.reference import reference_update
from shared.federated.rounds import participants_of_round
from shared.federated.seeds import derived_generator, derived_seed
from shared.federated.server import combine
from shared.federated.vectors import VectorLayout
from shared.runs import read_metrics

Make = Callable[..., Any]


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plain_round(local: nn.Module, data: Any, seed: int, round: int, weigh: str = "equal") -> dict[str, Tensor]:
    """One round of federated averaging as a textbook writes it."""
    results, samples = [], []
    for client in data.client_ids:
        model = deepcopy(local).train().requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-6)
        torch.manual_seed(derived_seed(seed, "client", round, client))
        count = 0
        for batch in data.client_loader(client, derived_generator(seed, "shuffle", round, client)):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
            count += len(batch[1])
        results.append(model.state_dict())
        samples.append(count)
    shares = [n / sum(samples) if weigh == "samples" else 1 / len(samples) for n in samples]
    return {
        name: sum(share * result[name] for share, result in zip(shares, results, strict=True))
        if tensor.is_floating_point()
        else results[0][name]
        for name, tensor in local.state_dict().items()
    }


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("include_buffers", [True, False])
def test_rounds_equal_plain_federated_averaging(
    make_data: Make, make_module: Make, make_trainer: Make, weighting: str, include_buffers: bool
) -> None:
    data, module = make_data(), make_module(weighting=weighting, include_buffers=include_buffers)
    reference = deepcopy(module.local)
    for round in range(2):
        reference.load_state_dict(plain_round(reference, data, seed=11, round=round, weigh=weighting))
    make_trainer(2).fit(module, datamodule=data)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(module.local.state_dict()[name], tensor, atol=2e-6, rtol=1e-5)
        assert module.local.state_dict()[name].dtype == tensor.dtype


def test_one_round_is_one_step_with_a_row_and_a_checkpoint_each(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(3, folder="run")
    trainer.fit(make_module(), datamodule=make_data())
    assert trainer.current_epoch == trainer.global_step == 3
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    for name in ("train/loss", "test/macro_f1", "round/bytes_up"):
        assert [epoch for epoch, _ in series[name]] == [0, 1, 2]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 3


def test_training_learns(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    trainer = make_trainer(15)
    trainer.fit(make_module(), datamodule=make_data())
    assert trainer.callback_metrics["test/macro_f1"] > 0.9


class Momentum(VectorAggregator):
    """A rule with state, to see it through a resume."""

    def setup(self, d: int, device: Any = None) -> None:
        self.register_buffer("memory", torch.zeros(d, device=device))

    def combine(self, updates: Tensor, **_: Any) -> Tensor:
        self.memory = 0.5 * self.memory + 0.5 * updates.mean(0)
        self.diagnostics = {"norms": updates.norm(dim=1), "pairs": updates @ updates.T, "size": self.memory.norm()}
        return self.memory


@pytest.mark.parametrize("keep_optimizer", [False, True])
def test_resumed_equals_uninterrupted(
    make_data: Make, make_module: Make, make_trainer: Make, weights: Make, tmp_path: Path, keep_optimizer: bool
) -> None:
    client = ClientTraining(keep_optimizer=keep_optimizer)
    whole = make_module(Momentum(), client=client, participation=0.75)
    make_trainer(5, folder="whole").fit(whole, datamodule=make_data())

    # The interrupted run had started round 3 when it died: its client states are ahead of its last checkpoint.
    dying = make_module(Momentum(), client=client, participation=0.75)
    trainer = make_trainer(5, folder="resumed")
    validate = dying.on_validation_epoch_start

    def die_in_round_3() -> None:
        validate()
        if dying.current_epoch == 3:
            raise KeyError("the machine went down")

    dying.on_validation_epoch_start = die_in_round_3
    with pytest.raises(KeyError):
        trainer.fit(dying, datamodule=make_data())
    resumed = make_module(Momentum(), client=client, participation=0.75)
    make_trainer(5, folder="resumed").fit(
        resumed, datamodule=make_data(), ckpt_path=tmp_path / "resumed" / "checkpoints" / "epoch=2.ckpt"
    )
    assert_equal(weights(whole), weights(resumed))
    assert resumed.ledger.totals == whole.ledger.totals
    for name in ("ledger.csv", "rounds.csv"):
        whole_rows, resumed_rows = (rows_of(tmp_path / run / name) for run in ("whole", "resumed"))
        for row in whole_rows + resumed_rows:
            row.pop("seconds", None)
        assert whole_rows == resumed_rows


def test_kept_optimizer_changes_the_result(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    states = []
    for keep in (False, True):
        module = make_module(client=ClientTraining(keep_optimizer=keep))
        make_trainer(3).fit(module, datamodule=make_data())
        states.append(module.local.state_dict()["network.0.weight"].clone())
    assert not torch.equal(*states)


def test_a_missing_client_state_is_told(make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path) -> None:
    client = ClientTraining(keep_optimizer=True)
    make_trainer(2, folder="run").fit(make_module(client=client), datamodule=make_data())
    (tmp_path / "run" / "clients" / "client=0002" / "round=0001.safetensors").unlink()
    with pytest.raises(RunError, match="client 2 after round 1 is missing"):
        make_trainer(3, folder="run").fit(
            make_module(client=client),
            datamodule=make_data(),
            ckpt_path=tmp_path / "run" / "checkpoints" / "epoch=1.ckpt",
        )


def test_diagnostics_are_logged_each_round(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(2, folder="run").fit(make_module(Momentum()), datamodule=make_data())
    series = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {f"server/norms/client_{k}" for k in range(4)} | {"server/size"} <= series.keys()
    assert [p.name for p in sorted((tmp_path / "run" / "diagnostics").iterdir())] == [
        "round=0000.safetensors",
        "round=0001.safetensors",
    ]


# ---------------------------------------------------------------------- failures


class Faulty(FederatedModule):
    """Client 2 misbehaves in round 1 as its ``fault`` says."""

    fault: Callable[[dict[str, Tensor], LocalResult], tuple[dict[str, Tensor], LocalResult]]

    def train_client(self, round: int, client: int, state: Any, place: Any = (1, 1)) -> Any:
        upload, result = super().train_client(round, client, state, place)
        if round == 1 and client == 2:
            return self.fault({name: tensor.clone() for name, tensor in upload.items()}, result)
        return upload, result


def raises(upload: Any, result: LocalResult) -> Any:
    raise OSError("disk full")


def with_value(value: float) -> Any:
    def fault(upload: dict[str, Tensor], result: LocalResult) -> Any:
        upload["network.0.weight"].view(-1)[3] = value
        return upload, result

    return fault


def without_key(upload: dict[str, Tensor], result: LocalResult) -> Any:
    del upload["network.4.bias"]
    return upload, result


def with_key(upload: dict[str, Tensor], result: LocalResult) -> Any:
    return {**upload, "extra": torch.zeros(1)}, result


def misshapen(upload: dict[str, Tensor], result: LocalResult) -> Any:
    return {**upload, "network.4.bias": torch.zeros(7)}, result


def without_samples(upload: dict[str, Tensor], result: LocalResult) -> Any:
    return upload, LocalResult(0, 0, float("nan"))


FAULTS = {
    "raises": (raises, "OSError: disk full"),
    "nan": (with_value(float("nan")), "NaN or infinite values"),
    "inf": (with_value(float("-inf")), "NaN or infinite values"),
    "missing key": (without_key, "missing tensor 'network.4.bias'"),
    "extra key": (with_key, "unexpected tensor 'extra'"),
    "wrong shape": (misshapen, "tensor 'network.4.bias' has shape (7,), not (3,)"),
    "zero samples": (without_samples, "no training samples"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_client_is_named_and_left_out(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path, fault: str
) -> None:
    module = make_module(kind=Faulty, weighting="samples")
    module.fault = FAULTS[fault][0]
    seen: list[tuple[list[int], Tensor]] = []
    rule = module.aggregator.combine

    def spy(updates: Tensor, **options: Any) -> Tensor:
        seen.append((list(options["client_ids"]), options["weights"]))
        return rule(updates, **options)

    module.aggregator.combine = spy
    trainer = make_trainer(3, folder="run")
    trainer.fit(module, datamodule=make_data())
    assert [ids for ids, _ in seen] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]]
    assert all(torch.isclose(w.sum(), torch.tensor(1.0, dtype=torch.float64)) for _, w in seen)
    told = [row["failures"] for row in rows_of(tmp_path / "run" / "rounds.csv")]
    assert told == ["", f"2: {FAULTS[fault][1]}", ""]
    assert module.describe()["left_out"] == {"2": 1}
    assert all(torch.isfinite(t).all() for t in module.local.state_dict().values())
    uploads = [row for row in rows_of(tmp_path / "run" / "ledger.csv") if row["direction"] == "up"]
    assert {int(row["client"]) for row in uploads if row["round"] == "1"} == {0, 1, 3}


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_failed_client_goes_on_from_its_last_good_state(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path, weights: Make, fault: str
) -> None:
    def module() -> Any:
        made = make_module(kind=Faulty, client=ClientTraining(keep_optimizer=True))
        made.fault = FAULTS[fault][0]
        return made

    whole, first, second = module(), module(), module()
    make_trainer(4, folder="whole").fit(whole, datamodule=make_data())
    make_trainer(2, folder="run").fit(first, datamodule=make_data())
    assert first.client_rounds == {0: 1, 1: 1, 2: 0, 3: 1}
    make_trainer(4, folder="run").fit(
        second, datamodule=make_data(), ckpt_path=tmp_path / "run" / "checkpoints" / "epoch=1.ckpt"
    )
    assert_equal(weights(whole), weights(second))
    assert first.describe()["left_out"] == second.describe()["left_out"] == {"2": 1}


def test_too_many_failures_stop_the_run_and_the_last_checkpoint_is_whole(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path, weights: Make
) -> None:
    module = make_module(kind=Faulty, min_clients=4)
    module.fault = raises
    with pytest.raises(RunError, match=r"round 1 has 3 good uploads of 4, needs 4 \(client 2: OSError: disk full\)"):
        make_trainer(3, folder="run").fit(module, datamodule=make_data())
    resumed = make_module(min_clients=4)
    make_trainer(1, folder="run").fit(
        resumed, datamodule=make_data(), ckpt_path=tmp_path / "run" / "checkpoints" / "epoch=0.ckpt"
    )
    once = make_module()
    make_trainer(1).fit(once, datamodule=make_data())
    assert_equal(weights(once), weights(resumed))


class NaNUpload(Attack):
    def forward(self, updates: Tensor, *, byzantine: Any, **_: Any) -> Tensor:
        return updates[list(byzantine)] * float("nan")


def test_a_crafted_nan_upload_is_left_out(
    make_data: Make, make_module: Make, make_trainer: Make, weights: Make, tmp_path: Path
) -> None:
    module = make_module(attack=NaNUpload(), byzantine=[1])
    make_trainer(2, folder="run").fit(module, datamodule=make_data())
    assert all(torch.isfinite(t).all() for t in module.local.state_dict().values())
    assert [row["failures"] for row in rows_of(tmp_path / "run" / "rounds.csv")] == ["1: NaN or infinite values"] * 2


# ---------------------------------------------------------------------- attack, rules, ledger


class Zero(Attack):
    """Uploads the old global model; records what it was shown."""

    def forward(self, updates: Tensor, *, byzantine: Any, client_ids: Any, **_: Any) -> Tensor:
        self.shown = (list(byzantine), list(client_ids), tuple(updates.shape))
        return torch.zeros_like(updates[list(byzantine)])

    def poison(self, batch: Any, num_classes: int | None) -> Any:
        self.poisoned = num_classes
        return batch


def test_the_attack_replaces_hostile_rows_alone(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    seen: list[Tensor] = []

    class Spy(FedAvg):
        def combine(self, updates: Tensor, **options: Any) -> Tensor:
            seen.append(updates.clone())
            return super().combine(updates, **options)

    attack = Zero()
    make_trainer(1).fit(make_module(Spy(), attack=attack, byzantine=[2]), datamodule=make_data())
    honest = make_module(Spy())
    make_trainer(1).fit(honest, datamodule=make_data())
    attacked, clean = seen
    assert attack.shown == ([2], [0, 1, 2, 3], (4, honest.layout.size))
    assert attack.poisoned == 3
    assert torch.equal(attacked[2], torch.zeros_like(attacked[2]))
    assert torch.equal(attacked[[0, 1, 3]], clean[[0, 1, 3]])


class Mean(StateRule):
    def forward(self, uploads: Any, *, weights: Tensor, **_: Any) -> dict[str, Tensor]:
        return {name: sum(w * u[name] for w, u in zip(weights.float(), uploads, strict=True)) for name in uploads[0]}


def test_a_state_rule_equals_the_vector_rule(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    by_state, by_vector = make_module(Mean()), make_module()
    for module in (by_state, by_vector):
        make_trainer(2).fit(module, datamodule=make_data())
    for name, tensor in by_vector.local.state_dict().items():
        torch.testing.assert_close(by_state.local.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


class Witness(StateRule):
    """Keeps what it is given and moves nothing."""

    def forward(self, uploads: Any, *, origin: Any, weights: Tensor, **_: Any) -> dict[str, Tensor]:
        self.uploads = [{name: tensor.clone() for name, tensor in upload.items()} for upload in uploads]
        self.weights = weights
        return dict(origin)


def test_a_state_rule_sees_the_clients_own_tensors(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    module = make_module(Witness(), attack=Zero(), byzantine=[2])
    train, sent = module.train_client, {}

    def watched(round: int, client: int, *rest: Any) -> Any:
        upload, result = train(round, client, *rest)
        sent[client] = {name: tensor.clone() for name, tensor in upload.items()}
        return upload, result

    module.train_client = watched
    start = {name: tensor.clone() for name, tensor in module.local.state_dict().items()}
    make_trainer(1).fit(module, datamodule=make_data())
    for client in (0, 1, 3):
        for name, tensor in module.aggregator.uploads[client].items():
            assert torch.equal(tensor, sent[client][name]), name
    # A hostile client's difference of zero is the model that it was given.
    assert all(torch.equal(tensor, start[name]) for name, tensor in module.aggregator.uploads[2].items())
    assert any(not torch.equal(sent[2][name], start[name]) for name in module.aggregator.uploads[2])


def test_a_state_rule_is_asked_about_the_federation(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    rule = Witness()
    rule.min_clients = 3
    with pytest.raises(UsageError, match="Witness needs at least 3 clients, got 2"):
        make_trainer(1).fit(make_module(rule, participation=0.5), datamodule=make_data())
    asked: list[Any] = []
    rule.check = lambda *counts: asked.append(counts)  # type: ignore[method-assign]
    make_trainer(1).fit(make_module(rule, participation=0.75), datamodule=make_data())
    assert asked == [(3, 4)]


def test_published_weights(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    rule, data = Witness(), make_data()
    with pytest.raises(UsageError, match=r"model\.weighting can be published only where .*, noise have none"):
        make_trainer(1).fit(make_module(rule, weighting="published"), datamodule=data)
    data.published_weights = [0.0, 0.2, 0.3, 0.5]
    with pytest.raises(UsageError, match="published weights must be positive"):
        make_trainer(1).fit(make_module(rule, weighting="published"), datamodule=data)
    data.published_weights = [0.4, 0.1, 0.2, 0.3]
    module = make_module(rule, weighting="published", participation=0.5)
    make_trainer(1).fit(module, datamodule=data)
    ids = participants_of_round([0, 1, 2, 3], 0.5, seed=11, round=0)
    of_round = torch.tensor([data.published_weights[k] for k in ids], dtype=torch.float64)
    torch.testing.assert_close(rule.weights, of_round / of_round.sum())
    assert module.describe()["client_weights"] == dict(enumerate(data.published_weights))


class Negative(VectorAggregator):
    def combine(self, updates: Tensor, **_: Any) -> Tensor:
        return updates.abs().sum(0) * 10


def test_a_running_variance_never_becomes_negative(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    module = make_module(Negative())
    make_trainer(3, folder="run").fit(module, datamodule=make_data())
    assert (module.local.state_dict()["network.1.running_var"] >= 0).all()
    assert module.local.state_dict()["network.1.num_batches_tracked"].dtype == torch.int64
    counts = read_metrics(tmp_path / "run" / "metrics.csv")["round/negative_variances"]
    assert [round for round, _ in counts] == [0, 1, 2]
    assert 1 <= counts[0][1] <= 4  # of four channels


def test_negative_variances_are_counted_and_nothing_else_is_touched() -> None:
    state = {
        "weight": torch.tensor([-1.0, 2.0]),
        "a.running_var": torch.tensor([0.5, 1.0, 0.0]),
        "b.running_var": torch.tensor([3.0]),
        "b.running_mean": torch.tensor([-3.0]),
        "steps": torch.tensor(0),
    }
    layout = VectorLayout(state)
    origin = layout.flatten(state).clone()
    update = layout.flatten(
        {
            "weight": torch.tensor([1.0, 1.0]),
            "a.running_var": torch.tensor([1.0, 0.5, 0.25]),
            "b.running_var": torch.tensor([1.0]),
            "b.running_mean": torch.tensor([1.0]),
            "steps": torch.tensor(0),
        }
    ).clone()
    share = torch.ones(1, dtype=torch.float64)
    options = {"origin": origin, "weights": share, "ids": [0], "round": 0, "counters": {"steps": 7}}
    assert combine(FedAvg(), layout, update[None], state, **options) == 2
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "weight": [-2.0, 1.0],
        "a.running_var": [0.0, 0.5, 0.0],
        "b.running_var": [2.0],
        "b.running_mean": [-4.0],
        "steps": 7,
    }
    assert combine(FedAvg(), layout, torch.zeros_like(update)[None], state, **options) == 0


def test_the_ledger_counts_serialised_bytes(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    module = make_module(participation=0.5)
    make_trainer(3, folder="run").fit(module, datamodule=make_data())
    message = len(save({name: tensor.contiguous() for name, tensor in module.communicated().items()}))
    assert module.ledger.totals == {"down": message * 2 * 3, "up": message * 2 * 3}
    rows = rows_of(tmp_path / "run" / "ledger.csv")
    assert sum(int(row["bytes"]) for row in rows) == 2 * message * 2 * 3
    assert {row["component"] for row in rows} == {"parameters", "buffers", "header"}
    for round in range(3):
        present = {int(row["client"]) for row in rows if row["round"] == str(round)}
        assert present == set(participants_of_round([0, 1, 2, 3], 0.5, 11, round))


def test_partial_participation_draws_each_round_anew() -> None:
    drawn = [tuple(participants_of_round(list(range(10)), 0.3, 0, round)) for round in range(50)]
    assert {len(chosen) for chosen in drawn} == {3}
    assert set().union(*drawn) == set(range(10))
    assert drawn == [tuple(participants_of_round(list(range(10)), 0.3, 0, round)) for round in range(50)]
    assert participants_of_round(list(range(10)), 0.01, 0, 0) != []


def test_proximal_term_keeps_clients_near_the_global_model(
    make_data: Make, make_module: Make, make_trainer: Make
) -> None:
    distances = []
    for proximal in (0.0, 100.0):
        module = make_module(client=ClientTraining(proximal=proximal, epochs=3))
        before = module.layout.flatten(module.communicated())
        make_trainer(1).fit(module, datamodule=make_data())
        weight = next(slot for slot in module.layout.slots if slot.name == "network.4.weight")
        moved = module.layout.flatten(module.communicated()) - before
        distances.append(moved[weight.start : weight.stop].norm())
    assert distances[1] < 0.5 * distances[0]


def test_clipping_bounds_the_gradient(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    sgd = ClientTraining(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), max_grad_norm=1e-4)
    module = make_module(client=sgd)
    before = {name: p.clone() for name, p in module.local.named_parameters()}
    data = make_data()
    make_trainer(1).fit(module, datamodule=data)
    steps = max(len(data.client_loader(k, torch.Generator())) for k in data.client_ids)
    moved = torch.cat([(p - before[name]).flatten() for name, p in module.local.named_parameters()])
    assert 0 < moved.norm() <= 1e-4 * steps * 1.001


def test_centralised_regime_is_ordinary_training(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    module = make_module(regime="centralised")
    trainer = make_trainer(12)
    trainer.fit(module, datamodule=make_data())
    assert trainer.global_step == 12 * 12  # 90 images in batches of 8
    assert trainer.callback_metrics["test/macro_f1"] > 0.9


# ---------------------------------------------------------------------- the model that a round starts from


class Counted(FederatedModule):
    """Counts passes over the evaluation data outside Lightning's own."""

    passes = 0

    def _evaluate(self) -> dict[str, Tensor]:
        self.passes += 1
        return super()._evaluate()


def series(folder: Path, name: str) -> list[float]:
    return [value for _, value in read_metrics(folder / "metrics.csv")[name]]


@pytest.mark.parametrize(("options", "passes"), [({}, 1), ({"check_val_every_n_epoch": 2}, 3), ({"sanity": 1}, 1)])
def test_scores_at_the_start_of_a_round_are_those_after_the_last(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path, options: dict[str, Any], passes: int
) -> None:
    module = make_module(kind=Counted, evaluate_round_start=True)
    trainer = make_trainer(4, folder="run", **{k: v for k, v in options.items() if k != "sanity"})
    trainer.num_sanity_val_steps = options.get("sanity", 0)
    trainer.fit(module, datamodule=make_data())
    assert module.passes == passes
    starts = series(tmp_path / "run", "test/macro_f1_round_start")

    every = make_module()  # the same federation, scored after each round
    make_trainer(4, folder="every").fit(every, datamodule=make_data())
    assert starts[1:] == series(tmp_path / "every", "test/macro_f1")[:-1]
    untrained = make_module()
    scores = make_trainer(1).validate(untrained, datamodule=make_data(), verbose=False)[0]
    assert starts[0] == pytest.approx(scores["test/macro_f1"], abs=1e-7)
    for (name, tensor), other in zip(module.state_dict().items(), every.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name  # looking changes nothing


def test_scores_at_the_start_are_off_by_default_and_respect_the_limit(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(1, folder="off").fit(make_module(), datamodule=make_data())
    assert "test/macro_f1_round_start" not in read_metrics(tmp_path / "off" / "metrics.csv")
    for limit, name in ((0, "none"), (1, "one"), (0.5, "half")):
        module = make_module(evaluate_round_start=True)
        make_trainer(1, folder=name, limit_val_batches=limit).fit(module, datamodule=make_data(eval_batch_size=10))
        assert ("test/macro_f1_round_start" in read_metrics(tmp_path / name / "metrics.csv")) == (limit != 0)


def test_scores_at_the_start_survive_a_resume(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(4, folder="whole").fit(make_module(evaluate_round_start=True), datamodule=make_data())
    make_trainer(2, folder="cut").fit(make_module(evaluate_round_start=True), datamodule=make_data())
    make_trainer(4, folder="cut").fit(
        make_module(evaluate_round_start=True),
        datamodule=make_data(),
        ckpt_path=tmp_path / "cut" / "checkpoints" / "epoch=1.ckpt",
    )
    name = "test/macro_f1_round_start"
    assert series(tmp_path / "cut", name)[-2:] == series(tmp_path / "whole", name)[2:]


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byzantine": [0, 1]}, "more honest than hostile clients, got 2 hostile of 4"),
        ({"byzantine": [9]}, r"clients of 0 \.\. 3, got 9"),
        ({"byzantine": [1, 1]}, "once, got"),
        ({"participation": 0.0}, "participation must be above 0"),
    ],
)
def test_wrong_options_are_told(
    make_data: Make, make_module: Make, make_trainer: Make, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_trainer(1).fit(make_module(**options), datamodule=make_data())


@pytest.mark.parametrize(
    ("updates", "options", "message"),
    [
        (
            torch.zeros(3),
            {},
            r"FedAvg: updates must be a \(clients, coordinates\) matrix .* got shape \(3,\) of torch.float32",
        ),
        (torch.zeros(2, 3, dtype=torch.int), {}, r"got shape \(2, 3\) of torch.int32"),
        (
            torch.zeros(2, 3),
            {"client_ids": [1, 0]},
            r"client_ids must be 2 distinct ids in ascending order, got \(1, 0\)",
        ),
        (torch.zeros(2, 3), {"client_ids": [0]}, r"client_ids must be 2 distinct ids in ascending order, got \(0,\)"),
    ],
)
def test_a_rule_checks_its_updates(updates: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FedAvg()(updates, **options)


def test_half_precision_with_a_loss_scaler_is_refused(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    """On a CPU Lightning trains in bfloat16 instead, so that the plugin of a GPU has to be put there by hand."""
    trainer = make_trainer(1)
    trainer.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(
        UsageError, match=r"trainer.precision 16-mixed needs a loss scaler per client, .*: use bf16-mixed"
    ):
        trainer.fit(make_module(), datamodule=make_data())


def test_a_batch_without_tensors_is_refused() -> None:
    assert batch_size({"x": [torch.zeros(3, 2)], "y": None}) == 3
    for batch in (7, "text", {"x": "text"}):
        with pytest.raises(UsageError, match=r"a training batch must hold tensors, got (int|str)"):
            batch_size(batch)


def test_a_server_whose_own_training_diverges_is_told(make_data: Make, make_module: Make) -> None:
    module, data = make_module(), make_data(server_samples=16)
    data.setup("fit")
    state = module.exchanged()
    layout = VectorLayout(state)
    training = ClientTraining(optimizer=partial(torch.optim.SGD, lr=1e38))
    origin = layout.flatten(state)
    with pytest.raises(
        RunError, match=r"round 2: the server's own training on data.server_samples gave NaN or infinite"
    ):
        reference_update(
            deepcopy(module.local).train().requires_grad_(True), data, training, layout, state, origin, seed=1, round=2
        )


def test_a_checkpoint_of_another_model_is_refused(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path
) -> None:
    make_trainer(1, folder="run").fit(make_module(Momentum()), datamodule=make_data())
    with pytest.raises(UsageError, match=r"another model: .* 1 unexpected \(aggregator\.memory\)"):
        make_trainer(2).fit(
            make_module(), datamodule=make_data(), ckpt_path=tmp_path / "run" / "checkpoints" / "epoch=0.ckpt"
        )


def test_a_client_without_batches_is_left_out(make_module: Make, make_data: Make, make_trainer: Make) -> None:
    data = make_data(batch_size=64)
    data.setup()
    shares = data._loaded.shares
    shares[3] = shares[3][:1]  # a single image: batch normalisation cannot train on it
    module = make_module()
    trainer = make_trainer(1)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["round/failures"] == 1
