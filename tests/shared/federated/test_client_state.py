"""What a method may choose about its clients: what travels, what stays, schedules, accumulation."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.classification import Classifier
from shared.data.partition import Dirichlet
from shared.errors import UsageError
from shared.federated.aggregation import StateRule
from shared.federated.client import ClientTraining, train_locally
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule
from shared.federated.seeds import derived_generator
from shared.schedules import WarmupPolyLR

Make = Callable[..., Any]


class Adapted(nn.Module):
    """A frozen layer, two trained ones and a trained scale, as an adapter method has them."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 12).requires_grad_(False)
        self.down, self.up = nn.Linear(12, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(torch.relu(self.frozen(x.flatten(1)))) * self.scale))


class Adapters(FederatedModule):
    """The layers travel, the scale stays."""

    def communicated(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.local.state_dict().items() if ".down." in name or ".up." in name}

    def personal(self) -> dict[str, Tensor]:
        return {"network.scale": self.local.state_dict()["network.scale"]}


class WeightedMean(StateRule):
    def forward(self, uploads: Any, *, weights: Tensor, **_: Any) -> dict[str, Tensor]:
        return {name: sum(w * u[name] for w, u in zip(weights.float(), uploads, strict=True)) for name in uploads[0]}


def adapters(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"aggregator": FedAvg(), "weighting": "samples", "seed": 11} | options
    return Adapters(Classifier(Adapted(), 3), **options)


def decaying(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def in_epochs(optimizer: Any) -> Any:
    return WarmupPolyLR(optimizer, epochs=4, warmup_steps=2, exponent=2)


def poly_rate(i: int, steps_per_epoch: int) -> float:
    """What ``in_epochs`` makes of a base rate of 0.01 (the FLAP-SAM spec, section 5; 4 epochs, warm-up 2, power 2)."""
    if i == 0:
        return 0.01 / 2
    return 0.01 * i / 2 if i <= 2 else 0.01 * max(0.0, 1 - (i - 3) / (4 * steps_per_epoch)) ** 2


RECIPE: dict[str, Any] = {
    "optimizer": partial(torch.optim.AdamW, lr=0.01),
    "keep_optimizer": True,
    "scheduler": decaying,
    "accumulate": 2,
    "proximal": 0.3,
    "max_grad_norm": 0.5,
}


def plain_run(
    local: Classifier, data: Any, rounds: int, rate: Callable[[int, int], float] = lambda i, per_epoch: 0.01 / (1 + i)
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """The recipe above as a loop with one living model and optimiser per client.

    ``rate`` is that of a client's step, from its number and how many the client makes in an epoch.
    """
    data.setup()
    sent = [name for name in local.state_dict() if ".down." in name or ".up." in name]
    server = {name: local.state_dict()[name].clone() for name in sent}
    models = {k: deepcopy(local) for k in data.client_ids}
    optimizers = {
        k: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.01) for k, m in models.items()
    }
    counters = dict.fromkeys(models, 0)
    for round in range(rounds):
        counts = {}
        for k, model in models.items():
            model.load_state_dict(server, strict=False)
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            batches = list(data.client_loader(k, derived_generator(11, "shuffle", round, k)))
            counts[k] = sum(len(y) for _, y in batches)
            for first in range(0, len(batches), 2):
                group = batches[first : first + 2]
                near = sum((p - server[n]).square().sum() for n, p in trained.items() if n in server)
                loss = sum(model.loss(batch) for batch in group) / len(group) + 0.15 * near
                optimizers[k].param_groups[0]["lr"] = rate(counters[k], math.ceil(len(batches) / 2))
                optimizers[k].zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
                optimizers[k].step()
                counters[k] += 1
        total = sum(counts.values())
        server = {n: sum(counts[k] / total * models[k].state_dict()[n] for k in models) for n in sent}
    return server, {k: m.state_dict()["network.scale"] for k, m in models.items()}


def test_everything_together_equals_a_plain_loop(make_data: Make, make_trainer: Make, tmp_path: Path) -> None:
    for rule in (FedAvg(), WeightedMean()):
        module = adapters(aggregator=rule, client=ClientTraining(**RECIPE))
        before = deepcopy(module.local.state_dict())
        reference = adapters().local
        for name, p in reference.named_parameters():
            p.requires_grad_(".frozen." not in name)
        server, scales = plain_run(reference, make_data(), 3)
        make_trainer(3).fit(module, datamodule=make_data())
        after = module.local.state_dict()
        for name, tensor in server.items():
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=1e-5)
        for name in ("network.frozen.weight", "network.frozen.bias", "network.scale"):
            assert torch.equal(after[name], before[name])
        for client, scale in scales.items():
            kept = module._scratch["states"].load(client, 2)["personal/network.scale"]
            torch.testing.assert_close(kept, scale, atol=1e-6, rtol=1e-5)
            assert not torch.equal(kept, before["network.scale"])
        assert set(module.meter.measure(module.communicated())) == {"parameters", "header"}
        worker = module._worker()
        assert worker.network.frozen.weight is module.local.network.frozen.weight  # one copy for all clients
        assert worker.network.down.weight is not module.local.network.down.weight


def test_a_schedule_in_epochs_counts_each_clients_own(make_data: Make, make_trainer: Make) -> None:
    data = make_data(clients=2, partition=Dirichlet(0.3, min_size=20))
    data.setup()
    lengths = {len(data.client_loader(k, torch.Generator())) for k in (0, 1)}
    assert len({math.ceil(length / 2) for length in lengths}) == 2, "the clients must differ in steps"
    module = adapters(client=ClientTraining(**RECIPE | {"scheduler": in_epochs}))
    reference = deepcopy(module.local)
    for name, p in reference.named_parameters():
        p.requires_grad_(".frozen." not in name)
    make_trainer(5).fit(module, datamodule=data)
    server, _ = plain_run(reference, data, 5, poly_rate)
    for name, tensor in server.items():
        torch.testing.assert_close(module.local.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_centralised_training_counts_the_epochs_of_the_pooled_data(make_data: Make, make_trainer: Make) -> None:
    seen: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    client = ClientTraining(partial(Watched, lr=0.01), scheduler=in_epochs, accumulate=2)
    make_trainer(3).fit(adapters(client=client, regime="centralised"), datamodule=make_data())
    per_epoch = math.ceil(math.ceil(90 / 8) / 2)
    assert seen == pytest.approx([poly_rate(i, per_epoch) for i in range(3 * per_epoch)])


@pytest.mark.parametrize("scheduler", [decaying, in_epochs])
def test_resumed_equals_uninterrupted(
    make_data: Make, make_trainer: Make, weights: Make, tmp_path: Path, scheduler: Any
) -> None:
    client = ClientTraining(**RECIPE | {"scheduler": scheduler})
    whole, cut, resumed = (adapters(client=client, participation=0.75) for _ in range(3))
    make_trainer(4, folder="whole").fit(whole, datamodule=make_data())
    make_trainer(2, folder="cut").fit(cut, datamodule=make_data())
    make_trainer(4, folder="cut").fit(
        resumed, datamodule=make_data(), ckpt_path=tmp_path / "cut" / "checkpoints" / "epoch=1.ckpt"
    )
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    for client, round in whole.client_rounds.items():
        ours, theirs = (m._scratch["states"].load(client, round) for m in (resumed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_trained_must_travel_or_stay() -> None:
    class Forgetful(Adapters):
        def personal(self) -> dict[str, Tensor]:
            return {}

    with pytest.raises(UsageError, match=r"must travel or be personal, got network\.scale"):
        Forgetful(Classifier(Adapted(), 3), FedAvg())


def test_a_schedule_that_follows_a_score_is_refused(make_data: Make, make_trainer: Make) -> None:
    client = ClientTraining(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"client\.scheduler must depend on the step alone, got ReduceLROnPlateau"):
        make_trainer(1).fit(adapters(client=client), datamodule=make_data())
    with pytest.raises(UsageError, match=r"client\.accumulate must be at least 1"):
        ClientTraining(accumulate=0)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_what_clients_keep_needs_a_place(
    make_data: Make, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(1, folder="run")
    trainer.fit(adapters(regime="local"), datamodule=make_data())
    (tmp_path / "run/checkpoints/epoch=0.ckpt").rename(tmp_path / "moved.ckpt")
    again = make_trainer(1, folder="again")
    with pytest.raises(UsageError, match="ckpt_path must lie in its run folder, beside the clients' own tensors"):
        again.test(adapters(regime="local"), datamodule=make_data(), ckpt_path=tmp_path / "moved.ckpt")
    trainer = make_trainer(1)
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(
        UsageError, match="keep tensors of their own need a run folder over several processes, got none"
    ):
        trainer.fit(adapters(), datamodule=make_data())


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    """Five batches, two to a step: three steps, the last on one batch with its whole gradient."""
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 3)
    batches = [(torch.randn(4, 1, 8, 8), torch.randint(0, 3, (4,))) for _ in range(5)]
    training = ClientTraining(optimizer=partial(torch.optim.SGD, lr=0.1), accumulate=2)
    expected = deepcopy(model)
    for group in (batches[:2], batches[2:4], batches[4:]):
        whole = torch.cat([x for x, _ in group]), torch.cat([y for _, y in group])
        gradients = torch.autograd.grad(expected.loss(whole), list(expected.parameters()))
        with torch.no_grad():
            for p, g in zip(expected.parameters(), gradients, strict=True):
                p -= 0.1 * g
    result = train_locally(model, batches, training, training.optimizer(model.parameters()))
    assert (result.steps, result.samples) == (3, 20)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
