import json
from collections.abc import Callable
from typing import Any

import pytest

from fedsam.collaborative_gain import gain_of_runs, site_scores
from fedsam.sweep_report import gain_of
from shared.errors import UsageError

Make = Callable[..., Any]


def test_the_gain_of_two_runs(make_volumes: Make, make_segmenter: Make, make_trainer: Make) -> None:
    records = {}
    for regime in ("federated", "local"):
        module, data, trainer = make_segmenter(regime=regime), make_volumes((2, 1)), make_trainer(2)
        trainer.fit(module, datamodule=data)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        records[regime] = {"metrics": metrics, "data": data.describe(), "model": module.describe()}
        for client, volume in enumerate(data.test_dataloader()):  # one of each site
            model = module.model_of(client).eval()
            scores = model.metrics.clone()
            scores.reset()
            model.update(scores, volume)
            expected = float(scores.compute()["dice"])
            assert site_scores(records[regime])[client] == pytest.approx(expected)
    federated, local = records["federated"], records["local"]
    assert {"test/model_0/dice", "test/model_1/dice/site_a"} <= local["metrics"].keys()
    assert "test/model_0/dice" not in federated["metrics"]
    both = [site_scores(record) for record in (federated, local)]
    expected = sum(both[0][k] - both[1][k] for k in (0, 1)) / 2
    assert gain_of_runs(federated, local) == pytest.approx(expected)
    with pytest.raises(UsageError, match="got regime local for the federated one"):
        gain_of_runs(local, federated)
    other = local | {"data": local["data"] | {"image_size": 64}}
    with pytest.raises(UsageError, match="on the same data, got different image_size"):
        gain_of_runs(federated, other)


def test_the_gain_of_two_rows_of_a_sweep() -> None:
    def row(sites: list[str], **scores: float) -> dict[str, str]:
        return {"sites": json.dumps(sites), "scores": json.dumps({k.replace("__", "/"): v for k, v in scores.items()})}

    together = row(["a", "b"], dice__site_a=0.75, dice__site_b=0.5)
    alone = row(["a", "b"], model_0__dice__site_a=0.5, model_1__dice__site_b=0.625)
    assert gain_of(together, alone) == pytest.approx((0.25 - 0.125) / 2)
    with pytest.raises(UsageError, match=r"needs runs of the same sites, got \['a', 'b'\] and \[\"a\"\]"):
        gain_of(together, row(["a"], model_0__dice__site_a=0.5))
