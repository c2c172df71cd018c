"""Rules that need more of the engine than a matrix: the global model, a memory by client id, rules inside rules."""

import csv
import json
from pathlib import Path

import pytest

from fedseca.cli import main

TINY = [
    *("--model.network.width", "2", "--data.fraction", "0.1", "--data.batch_size", "16"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "3"),
]
NNM = '[{"class_path": "fedseca.pre_aggregation.NNM", "init_args": {"b": 1}}]'


@pytest.mark.parametrize(
    "words",
    [
        ["RFA"],
        ["DOS"],
        ["FLDetector", "--model.aggregator.faithful", "true"],
        ["SequentialBucketClipping"],
        ["PreAggregated", "--model.aggregator.pre", NNM, "--model.aggregator.rule", "fedseca.aggregators.MeaMed"],
    ],
    ids=lambda words: words[0],
)
def test_rules_with_needs_of_their_own_train(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--model.aggregator", *words, "--run.name", "rule"])
    results = json.loads((tmp_path / "runs" / "fedseca" / "rule" / "version_0" / "results.json").read_text())
    assert 0 <= results["metrics"]["test/accuracy"] <= 1


def test_a_rule_that_needs_clean_data_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *TINY, "--model.aggregator", "FLTrust"])
    assert stopped.value.code == 2
    assert (
        "FLTrust needs a reference update computed on clean data, got none: data.server_samples must be above 0"
        in capsys.readouterr().err
    )


def test_an_attack_that_cannot_try_the_rule_out_says_so_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model.aggregator", "FLTrust", "--model.attack", "AGRTailored", "--data.server_samples", "60"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *TINY, *words])
    assert stopped.value.code == 2
    told = "fedseca: AGRTailored needs a rule that it can try out without the server's clean data, got FLTrust\n"
    assert capsys.readouterr().err.endswith(told)
    assert not list(tmp_path.glob("runs/**/metrics.csv"))


def test_a_server_with_clean_data_trusts_nobody_who_turns_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under SignFlip hostile uploads point away from the server's own update, so their trust is 0."""
    monkeypatch.chdir(tmp_path)
    words = [
        "--model.aggregator",
        "FLTrust",
        "--model.attack",
        "SignFlip",
        "--data.server_samples",
        "60",
        "--data.partition",
        "IID",
    ]
    main(["fit", *TINY, *words, "--run.name", "trust"])
    folder = tmp_path / "runs" / "fedseca" / "trust" / "version_0"
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("server/trust/client_0")]
    assert len(rows) == 3
    for row in rows:
        trust = [float(row[f"server/trust/client_{k}"]) for k in range(5)]
        assert max(trust[3:]) == 0
        assert sum(trust[:3]) > 0
