"""``usssl sweep`` and ``usssl study variance`` as users run them, small, and again after a row is lost."""

import csv
from pathlib import Path

import pytest

from usssl.cli import main

PLANES = [
    *("--data.source.train", "60", "--data.source.validation", "20", "--data.source.test", "20"),
    *("--data.source.size", "32", "--data.image_size", "32", "--data.batch_size", "20"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
]
FRAMES = [
    *("--data.source", "PhantomVideos", "--data.source.videos", "4", "--data.source.patients", "2"),
    *("--data.source.size", "32", "--data.source.frames", "[12,12]", "--data.load_size", "48"),
    *("--data.image_size", "32", "--data.batch_size", "8", "--model.method.hidden", "16", "--model.method.width", "16"),
    *("--trainer.max_epochs", "1", "--model.lr_schedule.warmup_epochs", "0", "--trainer.accelerator", "cpu"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def lose_a_row(record: Path) -> None:
    """As if the command had been killed before its last run."""
    lines = record.read_text().splitlines()
    record.write_text("\n".join(lines[:-1]) + "\n")


def scores(record: Path) -> list[dict[str, str]]:
    """All rows but for what is measured by a clock."""
    with record.open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--inits", "[random]", "--fractions", "[100, 50]", "--seeds", "[7, 8]", "--workers", "1"]
    main([*command, "--", *PLANES])
    out = Path("runs/sweep")
    whole = scores(out / "results.csv")
    assert len(whole) == 8
    assert {row["images"] for row in whole} == {"60", "30"}
    told = capsys.readouterr().out
    assert "macro-F1 on 20 test images, fetal-heart-phantom (synthetic data), 2 seeds, linear" in told
    assert told.count(" ± ") == 4
    assert not list((out / "cells").rglob("*.ckpt")) + list((out / "cells").rglob("*.safetensors"))
    assert (out / "command.txt").read_text().startswith("usssl sweep --inits ")
    lose_a_row(out / "results.csv")
    main([*command, "--", *PLANES])
    assert scores(out / "results.csv") == whole
    assert " 7/8 " in capsys.readouterr().err.replace("\r", " ")


@pytest.mark.slow
def test_the_variance_study_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "variance", "--skips", "[5]", "--shares", "[50, 100]", "--seeds", "[7]", "--workers", "1"]
    command += ["--epoch_frames", "16", "--finetune", " ".join([*PLANES, "--model.freeze", "true"])]
    main([*command, "--", *FRAMES])
    out = Path("runs/variance")
    whole = scores(out / "results.csv")
    counted = {(row["axis"], row["level"]): (row["frames"], row["videos"], row["steps"]) for row in whole}
    half = {row["level"]: row["patients"] for row in whole if row["axis"] == "variance"}
    assert half == {"50": "1", "100": "2"}
    assert counted["size", "5"] == ("12", "4", "2")
    assert counted["variance", "50"][0] == counted["variance", "100"][0]
    assert counted["variance", "50"][2] == counted["variance", "100"][2] == "2"
    lose_a_row(out / "results.csv")
    main([*command, "--", *FRAMES])
    assert scores(out / "results.csv") == whole
    assert "equally many frames of more of them" in capsys.readouterr().out
