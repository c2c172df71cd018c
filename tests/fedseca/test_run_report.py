"""The page of a run says what was scored: one model with an interval, or the mean over the clients' own models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedseca.run_report import write_report
from shared.metrics.classification import ClassificationMetrics

SCORES = {"test/macro_f1": 0.625, "test/accuracy": 0.5}


def record(regime: str) -> dict[str, Any]:
    return {
        "command": "fedseca fit",
        "versions": {"fedseca": "0"},
        "wall_seconds": 2.0,
        "seed": 1,
        "device": "cpu",
        "epochs": 2,
        "metrics": SCORES,
        "mean_of_last_5": SCORES,
        "data": {
            **{"name": "blobs", "provenance": "synthetic", "partition": "IID", "class_names": ["a", "b"]},
            **{"validated_on": "test", "clients": {"0": [3, 4], "1": [2, 5], "2": [1, 1]}},
        },
        "model": {
            **{"regime": regime, "aggregator": "Krum", "attack": "SignFlip", "byzantine": [2], "network": "SmallCNN"},
            **{"pretrained": "none", "bytes": {"up": 0, "down": 0}, "coordinates": 10, "payload_bytes": 0},
        },
    }


@pytest.mark.parametrize(
    ("regime", "title", "clients", "scored", "interval"),
    [
        ("federated", "Krum under SignFlip", "3 clients, 1 hostile", "Scores of the global model after", True),
        ("local", "Every client alone", "3 clients", "Mean scores of the clients&#x27; models after", False),
        ("centralised", "Centralised training", "3 clients", "Scores of the global model after", True),
    ],
)
def test_the_page_tells_the_regime(
    regime: str, title: str, clients: str, scored: str, interval: bool, tmp_path: Path
) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,test/macro_f1,test/accuracy\n0,1,0.25,0.25\n1,2,0.625,0.5\n")
    metrics = ClassificationMetrics(2)
    metrics.update(torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1, 0]))
    names = ["0 (north)", "1 (south)", "2 (west)"]
    (tmp_path / "rounds.csv").write_text("round,participants,failures,seconds\n1,0 1 2,1: no answer,2.0\n")
    page = write_report(tmp_path, record(regime), metrics, names).read_text()
    assert "<td>1 (south)</td><td>no answer</td>" in page
    assert "Mean of the last five rounds" not in page  # there were two
    assert f"<h1>{title}</h1>" in page
    assert f"blobs · {clients} · SmallCNN" in page
    assert scored in page
    assert ("95 % CI" in page) == interval
    assert ("the server&#x27;s rule combines the uploads" in page) == (regime == "federated")
    assert ("the score is the mean over the clients&#x27; models" in page) == (regime == "local")
    assert ("all clients&#x27; models together" in page) == (regime == "local")
