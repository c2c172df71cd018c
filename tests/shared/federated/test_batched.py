"""Clients trained together against the same clients trained one after the other."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.classification import Classifier
from shared.errors import RunError, UsageError
from shared.federated import batched
from shared.federated.attack import Attack
from shared.federated.batched import Stream, clients_at_once, obstacle, pays, stacked, train_together, trial_fault
from shared.federated.client import ClientTraining, train_locally
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule

Make = Callable[..., Any]


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        )


class Layers(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))


def task(network: Callable[[], nn.Module] = Layers, **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(network(), 3, **options)


def client_batches(sizes: list[int], batch: int = 8) -> list[list[tuple[Tensor, Tensor]]]:
    """Batches of each client, the last one smaller."""
    generator = torch.Generator().manual_seed(3)
    clients = []
    for size in sizes:
        x, y = torch.randn(size, 1, 8, 8, generator=generator), torch.randint(0, 3, (size,), generator=generator)
        clients.append([(x[i : i + batch], y[i : i + batch]) for i in range(0, size, batch)])
    return clients


def streams(clients: list[list[Any]], epochs: int) -> list[Stream]:
    return [
        Stream(iter([(epoch, batch) for epoch in range(epochs) for batch in batches]), epochs * len(batches))
        for batches in clients
    ]


def trained_alone(model: Classifier, batches: list[Any], training: ClientTraining) -> tuple[dict[str, Tensor], Any]:
    own = deepcopy(model)
    result = train_locally(own, batches, training, training.optimizer(own.parameters()))
    return dict(own.named_parameters()), result


def assert_same_step(found: dict[str, Tensor], wanted: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Equal moves from ``start`` to 1e-5 of their length."""
    ours, theirs = (torch.cat([(w[n] - start[n]).detach().flatten() for n in start]) for w in (found, wanted))
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


OPTIMISERS: dict[str, Any] = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2),
    "fused AdamW": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "amsgrad": partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
}


@pytest.mark.parametrize("network", [Layers, Convolutions])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("loss", [{}, {"class_weights": [0.5, 1.0, 3.0], "label_smoothing": 0.1}])
def test_together_equals_one_after_the_other(network: Any, optimizer: str, loss: dict[str, Any]) -> None:
    """Sizes 21, 5, 40, 16, 1: partial batches everywhere, done after 3, 1, 5, 2 and 1 steps of each of two epochs."""
    model, clients = task(network, **loss), client_batches([21, 5, 40, 16, 1])
    training = ClientTraining(optimizer=OPTIMISERS[optimizer], epochs=2)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    outcomes = train_together(model.train(), start, streams(clients, 2), training.optimizer)
    for batches, outcome in zip(clients, outcomes, strict=True):
        assert not isinstance(outcome, Exception)
        wanted, result = trained_alone(model, batches, training)
        assert_same_step(outcome[0], wanted, start)
        assert (outcome[1].samples, outcome[1].steps) == (result.samples, result.steps)
        assert outcome[1].loss == pytest.approx(result.loss, rel=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[name])  # the skeleton and the start are as before
        assert parameter.grad is None


def test_a_client_that_is_done_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum and weight decay would go on moving it without any gradient."""
    rows: list[int] = []
    cut = batched._cut
    monkeypatch.setattr(batched, "_cut", lambda o, w, n: (rows.append(n), cut(o, w, n)))
    model, clients = task(), client_batches([8, 80, 16])
    training = ClientTraining(optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    outcomes = train_together(model.train(), start, streams(clients, 1), training.optimizer)
    assert rows == [2, 1]  # from three clients to two after one step, to one after two
    for batches, outcome in zip(clients, outcomes, strict=True):
        assert not isinstance(outcome, Exception)
        assert_same_step(outcome[0], trained_alone(model, batches, training)[0], start)


def test_failing_and_empty_clients_leave_the_others_alone() -> None:
    model, clients = task(), client_batches([16, 24, 24, 0, 24])
    clients[1][1][0][0, 0, 0, 0] = float("nan")

    def raising() -> Iterator[Any]:
        yield 0, clients[2][0]
        raise OSError("disk full")

    own = streams(clients, 1)
    own[2] = Stream(raising(), 3)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = ClientTraining(optimizer=OPTIMISERS["SGD"])
    outcomes = train_together(model.train(), start, own, training.optimizer)
    assert isinstance(outcomes[2], OSError)
    for i in (0, 4):
        assert_same_step(outcomes[i][0], trained_alone(model, clients[i], training)[0], start)  # type: ignore[index]
    assert any(tensor.isnan().any() for tensor in outcomes[1][0].values())  # type: ignore[index]
    assert outcomes[3][1].samples == outcomes[3][1].steps == 0  # type: ignore[index]
    assert all(torch.equal(tensor, start[name]) for name, tensor in outcomes[3][0].items())  # type: ignore[index]


def test_every_client_may_fail() -> None:
    own = [Stream(iter([]), 2), Stream(iter([]), 1)]
    start = dict(task().named_parameters())
    outcomes = train_together(task().train(), start, own, ClientTraining().optimizer)
    assert [str(outcome) for outcome in outcomes] == [
        "the batches ended after 0 of 2",
        "the batches ended after 0 of 1",
    ]


def test_smaller_batches_are_filled_with_their_first_item() -> None:
    batch, mask = stacked(
        [(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])), (torch.tensor([[7.0]]), torch.tensor([2]))],
        torch.device("cpu"),
    )
    assert batch[0].tolist() == [[[1.0], [2.0]], [[7.0], [7.0]]]
    assert batch[1].tolist() == [[0, 1], [2, 2]]
    assert mask.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_batches_of_unlike_shape_are_told() -> None:
    clients = [[(torch.zeros(2, 1, size, size), torch.zeros(2, dtype=torch.long))] for size in (8, 4)]
    with pytest.raises(RunError, match=r"client\.batched must be never where clients' batches differ in shape"):
        train_together(task().train(), dict(task().named_parameters()), streams(clients, 1), ClientTraining().optimizer)


# ---------------------------------------------------------------------- when


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.1))


class Counting(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x)


class Branching(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Centring(nn.Sequential):
    """Its items look at one another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Plain(Classifier):
    item_losses = Classifier.__mro__[1].item_losses  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("network", "training", "precision", "reason"),
    [
        (lambda: nn.Sequential(nn.BatchNorm2d(1), Layers()), {}, "32-true", "BatchNorm2d"),
        (lambda: nn.Sequential(nn.Dropout(0.1), Layers()), {}, "32-true", "Dropout.* is random"),
        (Layers, {"keep_optimizer": True}, "32-true", "keep_optimizer"),
        (Layers, {"proximal": 0.1}, "32-true", "proximal"),
        (Layers, {"max_grad_norm": 1.0}, "32-true", "max_grad_norm"),
        (Layers, {}, "bf16-mixed", "precision is bf16-mixed"),
        (Layers, {"optimizer": partial(torch.optim.RMSprop, lr=0.1)}, "32-true", "optimiser is RMSprop"),
    ],
)
def test_obstacles_are_named(network: Any, training: dict[str, Any], precision: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(obstacle(task(network), ClientTraining(**training), precision))
    assert obstacle(task(), ClientTraining(), "32-true") is None


def test_a_task_without_item_losses_and_a_huge_model_are_obstacles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not offer" in str(obstacle(Plain(Layers(), 3), ClientTraining(), "32-true"))
    monkeypatch.setattr(batched, "NUMBERS_AT_ONCE", 2000)
    assert clients_at_once(task()) == 1
    assert "so large" in str(obstacle(task(), ClientTraining(), "32-true"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Noisy, "random"), (Counting, "raised|changes a buffer"), (Branching, "raised"), (Centring, "items alone")],
)
def test_the_trial_finds_what_a_list_of_layers_cannot(kind: Any, reason: str) -> None:
    model = task(lambda: kind(nn.Flatten(), nn.Linear(64, 3))).train()
    state = deepcopy(model.state_dict())
    randomness = torch.get_rng_state()
    batch = client_batches([8])[0][0]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(trial_fault(model, batch))
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert trial_fault(task(Convolutions).train(), batch) is None


def test_the_default_batches_small_models_without_convolutions_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert pays(task(Layers), cpu)
    assert not pays(task(Convolutions), cpu)
    assert not pays(task(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1000), nn.Linear(1000, 3))), cpu)
    assert pays(task(Convolutions), torch.device("cuda"))


# ---------------------------------------------------------------------- whole rounds


class Flipped(Attack):
    """Labels turned round, and noise from torch's global generator: each client has its own course of it."""

    def poison(self, batch: Any, num_classes: int | None) -> Any:
        x, y = batch
        return x + 0.1 * torch.randn_like(x), 2 - y


@pytest.fixture
def run(make_data: Make, make_trainer: Make) -> Callable[..., FederatedModule]:
    def run(mode: str, network: Any = Layers, kind: Any = FederatedModule, rounds: int = 2, **options: Any) -> Any:
        training = ClientTraining(batched=mode, epochs=2)  # type: ignore[arg-type]
        module = kind(task(network), FedAvg(), client=training, seed=11, **options)
        make_trainer(rounds).fit(module, datamodule=make_data())
        return module

    return run


@pytest.mark.parametrize("network", [Layers, Convolutions])
@pytest.mark.parametrize("at_once", [64, 3])
def test_rounds_are_the_same(
    run: Callable[..., FederatedModule], monkeypatch: pytest.MonkeyPatch, network: Any, at_once: int
) -> None:
    monkeypatch.setattr(batched, "AT_ONCE", at_once)
    options = {"attack": Flipped(), "byzantine": [1]}
    together, alone = run("always", network, **options), run("never", network, **deepcopy(options))
    assert together.describe()["batched_clients"]
    assert not alone.describe()["batched_clients"]
    start = dict(task(network).state_dict())
    assert_same_step(together.local.state_dict(), alone.local.state_dict(), start)
    assert together.trainer.callback_metrics["train/loss"] == pytest.approx(
        float(alone.trainer.callback_metrics["train/loss"]), rel=1e-5
    )
    assert together.ledger.totals == alone.ledger.totals


def test_the_default_is_to_batch_where_it_pays(run: Callable[..., FederatedModule]) -> None:
    assert run("auto", Layers).describe()["batched_clients"]
    convolutions = run("auto", Convolutions)
    assert not convolutions.describe()["batched_clients"]
    reference = run("never", Convolutions)
    for name, tensor in reference.local.state_dict().items():
        assert torch.equal(tensor, convolutions.local.state_dict()[name])


class OwnWay(FederatedModule):
    def train_client(self, *arguments: Any) -> Any:
        return super().train_client(*arguments)


def test_always_is_refused_with_the_reason(run: Callable[..., FederatedModule]) -> None:
    with pytest.raises(UsageError, match=r"client\.batched can be always only .* OwnWay trains its clients"):
        run("always", kind=OwnWay)
    with pytest.raises(UsageError, match="BatchNorm2d"):
        run("always", lambda: nn.Sequential(nn.BatchNorm2d(1), Layers()))
    with pytest.raises(UsageError, match="a trial raised"):
        run("always", lambda: Branching(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(UsageError, match=r"client\.batched must be auto, always or never"):
        run("perhaps")


class Empty(list[Any]):
    num_workers = 0


@pytest.mark.parametrize("mode", ["always", "never"])
def test_an_empty_client_and_one_that_cannot_load_are_left_out(make_data: Make, make_trainer: Make, mode: str) -> None:
    data = make_data()
    load = data.client_loader

    def loader(client: int, generator: torch.Generator) -> Any:
        if client == 2:
            raise OSError("disk full")
        return Empty() if client == 0 else load(client, generator)

    data.client_loader = loader
    module = FederatedModule(task(), FedAvg(), client=ClientTraining(batched=mode), seed=11)  # type: ignore[arg-type]
    trainer = make_trainer(1)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["round/failures"] == 2
    assert set(module.client_rounds) == {1, 3}
