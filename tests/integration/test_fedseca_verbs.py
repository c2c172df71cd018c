"""``describe``, ``partition``, ``prepare`` and ``bench`` as users run them."""

import csv
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from fedseca.cli import main

TINY = [
    *("--model.network.width", "2", "--data.fraction", "0.1", "--data.batch_size", "16"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["describe", "--help"],
        ["partition", "-h"],
        ["prepare"],
        ["prepare", "--preset", "cifar10-export", "--help"],
        ["bench", "--help"],
    ],
)
def test_help_answers_without_torch(words: list[str]) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from fedseca.cli import main
        try:
            main({words})
        except SystemExit as stop:
            assert not stop.code, stop.code
        heavy = {{"torch", "lightning", "matplotlib", "torchvision"}} & set(sys.modules)
        sys.exit(f"imported {{heavy}}" if heavy else 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: fedseca {words[0]}")
    assert len(done.stdout.splitlines()) > 5


def test_describe_foretells_the_ledger(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--trainer.max_epochs", "2", "--data.clients", "6", "--model.participation", "0.5"]
    main(["describe", *options])
    told = capsys.readouterr().out
    assert not (empty_folder / "runs").exists()
    main(["fit", *options])
    with (empty_folder / "runs/fedseca/fit/version_0/ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    from shared.text_table import size

    total = sum(int(row["bytes"]) for row in rows)
    assert re.search(rf"the run of 2 rounds +[\d.]+ kB +{re.escape(size(total))}\n", told)
    assert len({(row["round"], row["client"]) for row in rows}) == 6
    capsys.readouterr()
    main(["describe", "--ckpt_path", "last"])
    assert "6 clients, 2 rounds" in capsys.readouterr().out


def test_a_kept_division_trains_the_same_model(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--trainer.max_epochs", "1", "--data.partition.alpha", "0.5"]
    main(["partition", *options, "--out", "kept"])
    assert "kept/split.csv" in capsys.readouterr().out
    main(["fit", *options, "--run.name", "drawn"])
    read = ["--data.partition", "FromTable", "--data.partition.file", "kept/split.csv"]
    main(["fit", *options[:-2], *read, "--run.name", "read"])
    states = []
    for name in ("drawn", "read"):
        (checkpoint,) = (empty_folder / "runs/fedseca" / name / "version_0/checkpoints").iterdir()
        states.append(torch.load(checkpoint, weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options[:-2], *read, "--data.seed", "1", "--data.fraction", "0.2"])
    assert stop.value.code == 2
    assert "data.partition.file must hold each of the 600 training images once" in capsys.readouterr().err


def test_prepared_pictures_are_trained_on(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", "--preset", "blobs", "--out", "b", "--train", "60", "--test", "20", "--classes", "2"])
    source = ["--data.source", "ImageFolder", "--data.source.root", "b", "--data.source.provenance", "synthetic"]
    main(
        ["fit", "--model.network.width", "2", *TINY[6:], "--trainer.max_epochs", "1", "--data.batch_size", "8", *source]
    )
    assert "on synthetic data (b) after 1 round in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "--preset", "blobs", "--out", "b", "--train", "61"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("fedseca: --out must be a new folder, or one of the same preset")


def test_bench_writes_table_and_picture(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "--rules", "[FedSECA, Bulyan]", "--clients", "[5]", "--sizes", "[1000]", "--repeats", "1"])
    assert "Bulyan, K = 5: not run: Bulyan needs K >= 4b + 3" in capsys.readouterr().out
    assert {path.name for path in (empty_folder / "runs/bench").iterdir()} == {"bench.csv", "bench.png"}
