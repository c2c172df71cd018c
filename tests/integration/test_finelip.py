"""The ``finelip`` command as users run it, small."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from finelip.checkpoints.read import read_clip
from finelip.cli import main
from finelip.data import CaptionDataModule
from finelip.module import FineLIPModule
from finelip.training import FinelipCli
from shared.commands import config_names

PAIRS = ["--data.source.pairs", "16", "--data.source.validation_pairs", "8", "--data.source.test_pairs", "12"]
TINY = [*PAIRS, "--data.batch_size", "8", "--data.eval_batch_size", "5", "--model.warmup_steps", "1"]
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--model.init", "random"]
RUN_IT = "import sys; from finelip.cli import main; main(sys.argv[1:])"
RUN = Path("runs/finelip/fit/version_0")
PATIENCE = 900.0
"""Seconds after which something that should happen will not: no measure of speed."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*more: str, epochs: int = 2) -> None:
    main(["fit", *CPU, *TINY, "--trainer.max_epochs", str(epochs), *more])


def refusal(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The one sentence that a wrong command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == code
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    return told[0].removeprefix("finelip: ")


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / "checkpoints").glob("*.ckpt"))  # names count epochs
    return torch.load(newest, weights_only=True)["state_dict"]


def test_from_pairs_to_a_gallery(capsys: pytest.CaptureFixture[str]) -> None:
    """Fit, test, export, encode, index, retrieve, explain, predict, one after the other."""
    fit()
    record = json.loads((RUN / "results.json").read_text())
    assert record["data"]["provenance"] == "synthetic"
    assert record["model"]["context_length"] == record["data"]["context_length"] == 248
    assert record["data"]["image_size"] == 96
    page = (RUN / "report.html").read_text()
    assert "What captions found" in page
    assert "Which words met which patches" in page
    median = record["metrics"]["val/fused/t2i_median_rank"]
    assert f">{median:.0f}</td>" in page
    assert f">{median:.4f}</td>" not in page
    capsys.readouterr()

    told = refusal(capsys, "test", *CPU, "--model.ratio", "3")
    assert told.startswith("--ckpt_path belongs to another model")
    main(["test", *CPU, "--model.evaluate_cut", "40"])
    told = capsys.readouterr().out
    assert "FineLIP* (fused), cut at 40" in told
    assert told.count("chance") == 2
    assert "HiMo@2" in told
    tested = json.loads((RUN / "results_test.json").read_text())["metrics"]
    assert tested["test/chance/t2i_r1"] == pytest.approx(1 / 12)
    assert tested["test/cut40/fused/t2i_r1_ratio_low"] <= tested["test/cut40/fused/t2i_r1_ratio_high"]
    assert "Recall at k and ranks from 1, test" in (RUN / "report.html").read_text()

    main(["export", "--out", "model.safetensors"])
    card = Path("model.safetensors.MODEL_CARD.md").read_text()
    assert "| val/fused/t2i_r1 |" in card
    assert "(synthetic data)" in card
    assert "medical" not in card
    assert str(Path.cwd()) not in card
    main(["export", "--out", "long.safetensors", "--layout", "openai"])
    assert len(read_clip(Path("long.safetensors")).tensors["positional_embedding"]) == 248

    main(["encode", "--out", "shards", "--shard_size", "5", "--", *PAIRS])
    main(["index", "--shards", "shards", "--out", "index"])
    capsys.readouterr()
    for mode in ("global", "fused", "rerank"):
        main(["retrieve", "--index", "index", "--mode", mode, "--rerank_top", "3", "--weights", "model.safetensors"])
        printed = capsys.readouterr().out
        assert re.search("image to text +R@1 ", printed)
        assert "0.083" in printed  # chance of 12
    words = ["retrieve", "--index", "index", "--text", '["a red disc", "two bars, or: three"]', "--top", "3"]
    Image.new("CMYK", (70, 50)).save("p.jpg")
    main([*words, "--picture", "p.jpg", "--out", "gallery"])
    Path("broken.jpg").write_bytes(b"no picture")
    told = refusal(capsys, *words, "--picture", "broken.jpg")
    assert told.startswith("--picture must be a picture that can be read: ")
    assert "broken.jpg" in told
    capsys.readouterr()
    page = Path("gallery/report.html").read_text()
    assert page.count("<img") == 2 * 3 + 1
    assert ">true<" not in page  # of a foreign picture nobody knows
    assert ">true<" in Path("retrieval/report.html").read_text()
    assert "http" not in page.split("</style>")[1].replace("http-equiv", "")
    capsys.readouterr()
    main([*words[:3], "--text", "red, " * 200, "--out", "gallery"])
    assert "1 text has more than 248 tokens and loses its end" in capsys.readouterr().out
    assert "--text must not be empty" in refusal(capsys, *words[:3], "--text", " ")

    main(["explain", "--picture", "p.jpg", "--text", "a red disc", "--out", "explained"])
    assert Path("explained/match_maps.png").is_file()
    Path("texts.txt").write_text("a red disc\ntwo bars\n")
    main(["predict", "--pictures", "p.jpg", "--texts", "texts.txt", "--top", "2"])
    assert len(Path("predictions.csv").read_text().splitlines()) == 3

    # An index of another model, and other wrong input.
    fit("--seed_everything", "5", "--run.name", "other", epochs=1)
    told = refusal(capsys, *words, "--weights", "last")
    assert "made by the model of --weights, which is runs/finelip/other/version_0" in told
    assert "which differs in model" in refusal(capsys, "encode", "--out", "shards", "--shard_size", "5", "--", *PAIRS)
    assert "--texts must be an existing file" in refusal(
        capsys, "predict", "--pictures", "p.jpg", "--texts", "none.txt"
    )
    Path("runs/finelip/fit/version_0/checkpoints/broken.ckpt").write_bytes(b"PK\x03\x04 cut")
    broken = "runs/finelip/fit/version_0/checkpoints/broken.ckpt"
    assert "damaged" in refusal(capsys, "test", *CPU, "--ckpt_path", broken)


def test_killed_and_continued_is_uninterrupted() -> None:
    """Two epochs, killed in the third, continued to four: the bits of four in one go."""
    fit("--run.name", "whole", epochs=4)
    whole = weights(Path("runs/finelip/whole/version_0"))

    class Killed(Exception):
        pass

    training_step = FineLIPModule.training_step

    def step(self: FineLIPModule, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        if self.current_epoch == 2 and batch_idx == 1:
            raise Killed
        training_step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineLIPModule, "training_step", step)
        with pytest.raises(Killed):
            fit("--run.name", "cut", epochs=4)
    assert not all(torch.equal(whole[name], t) for name, t in weights(Path("runs/finelip/cut/version_0")).items())
    fit("--run.name", "cut", "--ckpt_path", "last", epochs=4)
    again = weights(Path("runs/finelip/cut/version_0"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in again.items())
    assert not Path("runs/finelip/cut/version_1").exists()


def killed_when(happened: Callable[[], object], *words: str) -> None:
    """Run a command and end it, with no chance to tidy up, as soon as something has happened."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_IT, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + PATIENCE
    while not happened() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert happened()


def test_fit_killed_by_the_system() -> None:
    """Killed right after its first checkpoint: continued, it comes to the bits of a run that was left alone."""
    fit("--run.name", "whole", epochs=6)
    run = Path("runs/finelip/killed/version_0")
    words = ["fit", *CPU, *TINY, "--trainer.max_epochs", "6", "--run.name", "killed"]
    killed_when(lambda: list((run / "checkpoints").glob("*.ckpt")), *words)
    fit("--run.name", "killed", "--ckpt_path", "last", epochs=6)
    whole, again = (weights(folder) for folder in (Path("runs/finelip/whole/version_0"), run))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in again.items())
    # A kill between writing a checkpoint and removing the one before it leaves that one there, whole.
    names = {file.name for file in (run / "checkpoints").iterdir()}
    assert "epoch=0005.ckpt" in names
    assert names <= {f"epoch={epoch:04d}.ckpt" for epoch in range(6)}
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 7  # no epoch lost, none twice


def test_encode_killed_by_the_system() -> None:
    """The second run finds every whole shard and makes the rest."""
    fit(epochs=1)
    command = ["encode", "--shard_size", "2", "--batch_size", "1", "--", *PAIRS]
    killed_when(lambda: list(Path("killed").glob("*.safetensors")), command[0], "--out", "killed", *command[1:])
    main([command[0], "--out", "killed", *command[1:]])
    main([command[0], "--out", "whole", *command[1:]])
    for file in Path("whole").iterdir():
        assert (Path("killed") / file.name).read_bytes() == file.read_bytes(), file.name
    assert {f.name for f in Path("killed").iterdir() if f.suffix != ".tmp"} == {f.name for f in Path("whole").iterdir()}


def test_two_processes_train_as_one(empty_folder: Path) -> None:
    """Batches of four on each of two processes are those of eight on one."""
    fit("--run.name", "one", epochs=1)
    words = ["fit", *CPU, *TINY, "--trainer.max_epochs", "1", "--run.name", "two", "--data.batch_size", "4"]
    words += ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    (empty_folder / "two.py").write_text(f"from finelip.cli import main\nmain({words})\n")
    path = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "two.py"], capture_output=True, text=True, check=False, env=path)
    assert done.returncode == 0, done.stderr
    one, two = (
        json.loads(Path(f"runs/finelip/{name}/version_0/results.json").read_text())["metrics"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
    ours, theirs = (weights(Path(f"runs/finelip/{name}/version_0")) for name in ("one", "two"))
    # Adam divides gradients by their own size, so where they are nothing but rounding, a weight may go either way.
    gaps = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
    assert (gaps > 1e-5).float().mean() < 0.01


@pytest.mark.parametrize("config", config_names("finelip"))
def test_shipped_configs_are_understood(config: str) -> None:
    cli = FinelipCli("finelip", FineLIPModule, CaptionDataModule, ["fit", "--config", config], parse_only=True)
    chosen = cli.config["fit"]
    assert chosen.data.source.class_path.startswith("finelip.")
    assert cli.part("model")["loss"] is not None


@pytest.mark.parametrize(
    ("config", "more"),
    [
        *((config, PAIRS) for config in ("baseline_contrastive", "long_clip", "filip", "sparc", "laps")),
        ("captioned_photos", ["--data.train_pairs", "8", "--data.test_pairs", "6", "--data.batch_size", "4"]),
    ],
)
def test_small_configs_run(config: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", config, *CPU, *more, "--data.eval_batch_size", "6"]
    main(["fit", *words, "--trainer.max_epochs", "1"])
    main(["test", *words])
    assert "R@10" in capsys.readouterr().out
    real = config == "captioned_photos"
    record = json.loads(Path(f"runs/finelip/{config}/version_0/results_test.json").read_text())
    assert record["data"]["provenance"] == ("real" if real else "synthetic")


def test_several_evaluation_sets(capsys: pytest.CaptureFixture[str]) -> None:
    fit(epochs=1)
    photos = '[{"class_path": "finelip.captioned_photos.CaptionedPhotos", "init_args": {"crops": false}}]'
    main(["test", *CPU, "--data.further_tests", photos])
    told = capsys.readouterr().out
    assert "captioned-photos" in told
    scores = json.loads((RUN / "results_test.json").read_text())["metrics"]
    assert scores["test/captioned-photos/chance/t2i_r1"] == pytest.approx(1 / 5)
    assert scores["test/chance/t2i_r1"] == pytest.approx(1 / 12)


def test_a_sweep_goes_on_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--axes", '["positions"]', "--seeds", "[3]", "--epochs", "1", "--workers", "1", "--out", "s"]
    main([*command, "--", *CPU[:2], *CPU[4:], *TINY])
    table = Path("s/table.md").read_text()
    for value in ("default", "linear", "random", "none"):
        assert f"| {value} |" in table
    assert Path("s/sweep.png").is_file()
    lines = Path("s/results.csv").read_text().splitlines()
    assert len(lines) == 5
    Path("s/results.csv").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    main([*command, "--", *CPU[:2], *CPU[4:], *TINY])
    again = Path("s/results.csv").read_text().splitlines()
    assert again[:4] == lines[:4]
    without_seconds: Callable[[str], list[str]] = lambda line: [c for n, c in enumerate(line.split(",")) if n != 14]  # noqa: E731
    assert len(again) == 5
    assert without_seconds(again[4])[:9] == without_seconds(lines[4])[:9]
    assert Path("s/table.md").read_text() == table


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "--data.source", "LateDetial"], "--data.source must name a class of kind PairSource, got LateDetial"),
        (["fit", "--model.refinment", "both"], "unknown option model.refinment"),
        (["fit", "--model.evaluate_cut", "1"], "model.evaluate_cut must be at least 3, got 1"),
        (["fit", "--config", "long_klip"], "--config must be a file or a shipped config"),
        (["test"], "--ckpt_path last needs a run with a whole checkpoint, found none in runs/finelip/fit"),
        (["encode", "--out", "e", "--split", "tset", "--weights", "none.ckpt"], "--weights must be an existing file"),
        (
            ["sweep", "--axes", '["losses"]'],
            "--axes must hold some of positions, ratio, refinement, loss, length, global_tokens, score, got losses",
        ),
        (["retrieve", "--index", "none", "--weights", "tiny"], "--index must be a folder that finelip index wrote"),
        (["index", "--shards", "[]", "--out", "i"], "--shards must name at least one folder"),
        (["sweep", "--seeds", "[-1]"], "--seeds must lie in 0 .. 4294967295, got -1"),
        (["sweep", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["retrieve", "--index", "i", "--text", " "], "--text must not be empty"),
        (["retrieve", "--index", "i", "--shown", "-1"], "--shown must not be negative, got -1"),
        (["retrieve", "--index", "i", "--out", "file"], "--out must be in a folder that can be written, got file"),
        (["explain", "--picture", ".", "--text", "a"], "--picture must be a picture that can be read: . is a folder"),
        (
            ["predict", "--pictures", "p", "--texts", "t", "--out", "."],
            "--out must be a file to write, got the folder .",
        ),
        (["export", "--out", "file/a.safetensors"], "--out must be in a folder that can be written, got file"),
        (["stretch", "--weights", "w", "--out", "file/a.safetensors"], "--out must be in a folder that can be written"),
        (
            ["fit", "--trainer.max_epochs", "0"],
            "trainer.max_epochs must be at least 1, for the schedule needs its end, got 0",
        ),
    ],
)
def test_wrong_input_in_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert sentence in refusal(capsys, *words)
