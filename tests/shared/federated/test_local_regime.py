"""Clients that train alone, scores per client, and the gain of training together."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from shared.errors import UsageError
from shared.federated.client import ClientTraining
from shared.federated.evaluation import collaborative_gain
from shared.federated.seeds import derived_generator
from shared.metrics.classification import ClassificationMetrics
from shared.runs import read_metrics

Make = Callable[..., Any]
SHARES = [list(range(0, 10)), list(range(10, 14)), list(range(14, 30))]
"""Test images of clients 0, 2 and 3; client 1 has none."""


def trained_alone(local: Any, data: Any, client: int, rounds: int) -> Any:
    """What one client's model becomes without any federation."""
    model = deepcopy(local).requires_grad_(True)
    for round in range(rounds):
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-6)
        for batch in data.client_loader(client, derived_generator(11, "shuffle", round, client)):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
    return model.eval()


def scores(model: Any, loader: Any) -> dict[str, Tensor]:
    metrics = ClassificationMetrics(3)
    for batch in loader:
        model.update(metrics, batch)
    return metrics.compute()


def of_clients(data: Any) -> Any:
    """The same data with the evaluation set cut into clients."""
    data.setup()
    whole = data.test_dataloader().dataset
    data.eval_clients = [0, 2, 3]
    loaders = [DataLoader(Subset(whole, share), batch_size=6) for share in SHARES]
    data.val_dataloader = data.test_dataloader = lambda: loaders
    return data


@pytest.mark.parametrize("per_client", [False, True])
def test_every_client_trains_alone(
    make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path, per_client: bool
) -> None:
    module = make_module(regime="local", byzantine=[1])
    data = make_data()
    data.setup()
    pooled = data.test_dataloader()
    models = {k: trained_alone(module.local, make_data(), k, 3) for k in range(4)}
    trainer = make_trainer(3, folder="run")
    trainer.fit(module, datamodule=of_clients(data) if per_client else data)
    logged = trainer.callback_metrics
    own = {k: scores(model, pooled) for k, model in models.items()}
    for name in ("macro_f1", "loss"):
        for k in range(4):
            assert logged[f"test/model_{k}/{name}"] == pytest.approx(float(own[k][name]), rel=1e-5)
        mean = sum(float(row[name]) for row in own.values()) / 4
        assert logged[f"test/{name}"] == pytest.approx(mean, rel=1e-5)
        if per_client:
            for k, loader in zip((0, 2, 3), data.val_dataloader(), strict=True):
                expected = float(scores(models[k], loader)[name])
                assert logged[f"test/client_{k}/{name}"] == pytest.approx(expected, rel=1e-5)
    assert module.ledger.totals == {"down": 0, "up": 0}
    assert module.describe()["payload_bytes"] == 0
    start = make_module().local.state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in module.local.state_dict().items())


def test_resumed_equals_uninterrupted(make_data: Make, make_module: Make, make_trainer: Make, tmp_path: Path) -> None:
    client = ClientTraining(keep_optimizer=True)
    make_trainer(4, folder="whole").fit(make_module(regime="local", client=client), datamodule=make_data())
    make_trainer(2, folder="cut").fit(make_module(regime="local", client=client), datamodule=make_data())
    checkpoint = tmp_path / "cut" / "checkpoints" / "epoch=1.ckpt"
    resumed = make_module(regime="local", client=client)
    make_trainer(4, folder="cut").fit(resumed, datamodule=make_data(), ckpt_path=checkpoint)
    for name in ("test/loss", "test/model_2/loss"):
        whole, cut = (dict(read_metrics(tmp_path / run / "metrics.csv")[name]) for run in ("whole", "cut"))
        assert whole[3] == cut[3]
    # The scores of the checkpoint are those of the states that it names.
    expected = dict(read_metrics(tmp_path / "cut" / "metrics.csv")["test/loss"])[3]
    (tmp_path / "cut" / "config.yaml").touch()
    tested = make_module(regime="local", client=client)
    last = tmp_path / "cut" / "checkpoints" / "epoch=3.ckpt"
    found = make_trainer(1, folder="cut").test(tested, datamodule=make_data(), ckpt_path=last, verbose=False)[0]
    assert found["test/loss"] == pytest.approx(expected, rel=1e-6)


def test_a_client_that_diverges_alone_is_left_where_it_was(
    make_data: Make, make_module: Make, make_trainer: Make
) -> None:
    module = make_module(regime="local")
    train = module.train_client

    def diverging(round: int, client: int, *rest: Any) -> Any:
        outcome = train(round, client, *rest)
        if (round, client) == (1, 2):
            next(iter(module._scratch["memory"].values())).fill_(float("nan"))
        return outcome

    module.train_client = diverging
    trainer = make_trainer(2)
    trainer.fit(module, datamodule=make_data())
    assert module.client_rounds == {0: 1, 1: 1, 2: 0, 3: 1}
    assert torch.isfinite(trainer.callback_metrics["test/model_2/loss"])


def test_scores_per_client_and_pooled(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    module, plain = make_module(), make_module()
    data = of_clients(make_data())
    trainer, reference = make_trainer(2), make_trainer(2)
    trainer.fit(module, datamodule=data)
    reference.fit(plain, datamodule=make_data())
    logged = trainer.callback_metrics
    for name in ("macro_f1", "loss", "auroc", "ece"):
        assert logged[f"test/{name}"] == pytest.approx(float(reference.callback_metrics[f"test/{name}"]), rel=1e-6)
    module.local.eval()
    rows = [scores(module.local, loader) for loader in data.val_dataloader()]
    for k, row in zip((0, 2, 3), rows, strict=True):
        assert logged[f"test/client_{k}/macro_f1"] == pytest.approx(float(row["macro_f1"]))
    assert logged["test/clients/macro_f1"] == pytest.approx(float(sum(row["macro_f1"] for row in rows)) / 3)
    order = [s.tolist() for s in (module.local.metrics.stored()[1], plain.local.metrics.stored()[1])]
    assert order[0] == order[1]  # the pooled set stays in order


def test_the_gain_is_the_mean_difference() -> None:
    assert collaborative_gain({1: 0.5, 4: 1.0}, {4: 0.5, 1: 0.25}) == 0.375
    for federated, local in (({}, {}), ({0: 1.0}, {1: 1.0})):
        with pytest.raises(UsageError, match="scores of the same clients"):
            collaborative_gain(federated, local)


def test_selection_on_test_scores_is_refused(make_data: Make, make_module: Make, make_trainer: Make) -> None:
    trainer = make_trainer(1)
    trainer.callbacks.append(EarlyStopping("test/macro_f1"))
    with pytest.raises(UsageError, match="monitor of EarlyStopping must be a score on validation data"):
        trainer.fit(make_module(), datamodule=make_data())
    with pytest.raises(UsageError, match="evaluate_round_start must be false"):
        make_module(regime="local", evaluate_round_start=True)
