"""The ``usssl`` command as users run it, small."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from shared.checkpoints import load_tensors, sha256_of
from shared.commands import config_names, config_path
from shared.model_card import NOT_MEDICAL
from usssl.cli import main
from usssl.methods import METHODS
from usssl.pretraining import Pretraining
from usssl.training import PretrainCli, UltrasoundTrainer, build_pretraining
from usssl.unlabelled import UltrasoundVideoDataModule

CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FRAMES = ["--data.source", "usssl.echo_clip.EchoClip", "--data.sampling.frame_skip", "2", "--data.load_size", "48"]
SMALL = [
    "--data.image_size",
    "32",
    "--data.batch_size",
    "8",
    "--model.method.hidden",
    "16",
    "--model.method.width",
    "16",
]
SHORT = ["--trainer.max_epochs", "1", "--model.lr_schedule.warmup_epochs", "0"]
PLANES = ["--data.source.train", "20", "--data.source.validation", "10", "--data.source.test", "20"]
TINY_PLANES = [*PLANES, "--data.source.size", "32", "--data.image_size", "32", "--data.batch_size", "10"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """The one sentence that a wrong command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == code
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    return told[0].removeprefix("usssl: ")


def test_from_frames_to_classes(
    capsys: pytest.CaptureFixture[str], loaded: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    main(["pretrain", *CPU, *FRAMES, *SMALL, *SHORT])
    first = Path("runs/usssl/pretrain/version_0")
    assert (first / "report.html").is_file()
    weights = next((first / "checkpoints").glob("*.ckpt"))

    main(["finetune", *CPU, *TINY_PLANES, "--trainer.max_epochs", "1"])
    run = Path("runs/usssl/finetune/version_0")
    told = capsys.readouterr().out
    assert f"the newest pretraining, {first}" in told
    assert "pretrained: self" in told
    record = json.loads((run / "results_test.json").read_text())
    assert record["model"]["pretrained"] == "self"
    assert Path(record["model"]["init"]).name == weights.name
    assert (run / "report.html").is_file()
    assert (run / "labels.csv").is_file()
    assert (run / "checkpoints/best.ckpt").is_file()

    # The file that the run started from is not needed any more.
    weights.rename("moved.ckpt")
    main(["test", *CPU])
    again = json.loads((run / "results_test.json").read_text())
    assert again["metrics"] == pytest.approx(record["metrics"], nan_ok=True)
    assert again["model"]["pretrained"] == "self"

    told = refusal(capsys, "test", *CPU, "--model.hidden", "[4]")
    assert told.startswith("--ckpt_path belongs to another model")
    other = [*FRAMES, *SMALL, *SHORT, "--model.method.width", "8", "--ckpt_path", "moved.ckpt"]
    assert refusal(capsys, "pretrain", *CPU, *other).startswith("--ckpt_path belongs to another model")
    told = refusal(capsys, "finetune", *CPU, *TINY_PLANES, "--ckpt_path", "moved.ckpt")
    assert told.startswith("--ckpt_path must be a checkpoint of usssl finetune, got one of usssl pretrain")
    told = refusal(capsys, "pretrain", *CPU, "--ckpt_path", str(run / "checkpoints/best.ckpt"))
    assert told.startswith("--ckpt_path must be a checkpoint of usssl pretrain, got one of usssl finetune")

    main(["export", "--weights", "moved.ckpt", "--out", "backbone.safetensors"])
    state = torch.load("moved.ckpt", weights_only=True)["state_dict"]
    exported = load_tensors(Path("backbone.safetensors"), "--out")
    assert torch.equal(exported["layer4.1.bn2.weight"], state["method.backbone.layer4.1.bn2.weight"])
    assert not any(name.startswith("fc") for name in exported)
    card = Path("backbone.safetensors.MODEL_CARD.md").read_text()
    assert f"`{sha256_of(Path('backbone.safetensors'))}` |" in card
    assert f"- made from: moved.ckpt, SHA-256 `{sha256_of(Path('moved.ckpt'))}`" in card
    model = loaded(tmp_path / "backbone.safetensors.MODEL_CARD.md")["model"].eval()
    assert torch.equal(model.layer4[1].bn2.weight, exported["layer4.1.bn2.weight"])
    assert f"- parameters: {sum(p.numel() for p in model.parameters()):,}" in card
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 512)

    # Of a checkpoint in its run, the run is told too.
    main(["export", "--weights", str(run / "checkpoints/best.ckpt"), "--out", "out/best.safetensors"])
    card = Path("out/best.safetensors.MODEL_CARD.md").read_text()
    assert NOT_MEDICAL in card.splitlines()
    assert f"| test/macro_f1 | {record['metrics']['test/macro_f1']:.4g} |" in card
    assert "(synthetic data)" in card
    assert "- pretrained before the run: yes: by usssl, SHA-256" in card
    assert str(tmp_path) not in card

    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    Path("pictures").mkdir()
    for n, picture in enumerate(pixels):
        Image.fromarray(picture).save(f"pictures/{n}.png")
    main(["predict", "--pictures", "pictures", "--out", "classes.csv"])
    rows = list(csv.DictReader(Path("classes.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        shares = {name: float(value) for name, value in row.items() if name not in ("file", "class")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(shares, key=lambda name: shares[name])
    command = ["embed", "--pictures", "pictures", "--weights", "backbone.safetensors", "--out", "features.npz"]
    assert "--image_size must be given" in refusal(capsys, *command)
    main([*command, "--image_size", "32"])
    with np.load("features.npz", allow_pickle=False) as archive:
        assert archive["features"].shape == (3, 512)
        assert archive["files"].tolist() == ["0.png", "1.png", "2.png"]
    capsys.readouterr()
    main(["knn", *TINY_PLANES, "--model.init", "backbone.safetensors", "--k", "3"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 nearest of 20 training images: macro-F1 ")


def test_linear_probe_on_features_computed_once(capsys: pytest.CaptureFixture[str]) -> None:
    probe = ["--model.freeze", "true", "--model.init", "random", "--data.augment", "null"]
    main(["finetune", *CPU, *TINY_PLANES, *probe, "--trainer.max_epochs", "2"])
    told = capsys.readouterr().out
    assert "computed once" in told
    assert "pretrained: none" in told
    cached = json.loads(Path("runs/usssl/finetune/version_0/results_test.json").read_text())
    assert cached["model"]["trained_parameters"] == 2560
    # Scored again on the images themselves.
    main(["test", *CPU])
    plain = json.loads(Path("runs/usssl/finetune/version_0/results_test.json").read_text())
    assert plain["metrics"]["test/macro_f1"] == pytest.approx(cached["metrics"]["test/macro_f1"])
    assert plain["metrics"]["test/loss"] == pytest.approx(cached["metrics"]["test/loss"], rel=1e-4)


def test_a_run_that_is_out_of_time_ends_whole(capsys: pytest.CaptureFixture[str]) -> None:
    long = ["--trainer.max_epochs", "100000", "--model.lr_schedule.warmup_epochs", "1"]
    main(["pretrain", *CPU, *FRAMES, *SMALL, *long, "--trainer.max_time", "00:00:00:01"])
    run = Path("runs/usssl/pretrain/version_0")
    record = json.loads((run / "results.json").read_text())
    assert 0 < record["epochs"] < 100000
    assert "report: " in capsys.readouterr().out
    state = torch.load(next((run / "checkpoints").glob("*.ckpt")), weights_only=True)
    assert state["epoch"] == record["epochs"] - 1
    # The rate rises as planned for the whole length.
    rate = state["optimizer_states"][0]["param_groups"][0]
    done = state["global_step"] - 1
    per_epoch = 15 // 8
    assert rate["lr"] == pytest.approx(rate["base_lr"] * min(1, done / per_epoch), rel=1e-3)


def test_a_budget_is_made_into_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", *CPU, *FRAMES, *SMALL, "--model.lr_schedule.warmup_epochs", "0"]
    main([*command, "--budget_minutes", "0.02", "--seed_everything", "5"])
    run = Path("runs/usssl/pretrain/version_0")
    config, record = (run / "config.yaml").read_text(), json.loads((run / "results.json").read_text())
    assert f"budget: {record['epochs']} epochs, at " in capsys.readouterr().out
    kept = yaml.safe_load(config)
    assert kept["trainer"]["max_epochs"] == record["epochs"] >= 1
    assert kept.get("budget_minutes") is None
    assert kept["data"]["seed"] == record["data"]["seed"] == 5
    told = refusal(capsys, *command, "--budget_minutes", "1e-9")
    assert told.startswith("--budget_minutes must allow for one epoch, which takes about ")
    told = refusal(capsys, *command, "--budget_minutes", "0")
    assert told == "--budget_minutes must be above 0, got 0"
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_wrong_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model.init last needs a run" in refusal(capsys, "finetune", *CPU, *TINY_PLANES, "--model.init", "last")
    told = refusal(capsys, "finetune", *CPU, *TINY_PLANES, "--model.init", "none.ckpt")
    assert told == "--model.init must be an existing file, random, imagenet or last, got none.ckpt"
    assert "--weights last needs a run" in refusal(capsys, "export", "--out", "a.safetensors")
    assert "must end in .safetensors" in refusal(capsys, "export", "--out", "a.pth")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sweep", "--inits", "[a.ckpt]"], "--inits must be NAME=FILE, FILE, random or imagenet"),
        (["sweep", "--inits", "random", "--modes", "ful"], "--modes must hold some of full, linear, got ful"),
        (["sweep", "--inits", "random", "--fractions", "200"], "--fractions must lie in (0, 100] percent, got 200"),
        (["sweep", "--inits", "random", "--seeds", "[-1]"], "--seeds must lie in 0 .. 4294967295, got -1"),
        (["sweep", "--inits", "random", "--linear_epochs", "0"], "--linear_epochs must be at least 1, got 0"),
        (
            ["sweep", "--inits", "random", "--out", "file/x"],
            "--out must be in a folder that can be written, got file/x",
        ),
        (
            ["study", "retrieval", "--out", "file"],
            "--out must be in a folder that can be written, got file (File exists)",
        ),
        (["predict", "--pictures", "p", "--out", "."], "--out must be a file to write, got the folder ."),
        (
            ["embed", "--pictures", "p", "--out", "a.npz", "--weights", "no.pt"],
            "--weights must be an existing file or last",
        ),
        (["embed", "--pictures", "p", "--out", "a.npz", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (
            ["embed", "--pictures", "p", "--out", "a.npz", "--image_size", "-3"],
            "--image_size must be at least 16, got -3",
        ),
        (["export", "--out", "file/a.safetensors"], "--out must be in a folder that can be written"),
        (
            ["knn", "--model.init", "no.pt"],
            "--model.init must be an existing file, random, imagenet or last, got no.pt",
        ),
        (["finetune", *CPU, *TINY_PLANES, "--trainer.max_epochs", "0"], "trainer.max_epochs must be at least 1, got 0"),
        (["finetune", *CPU, *TINY_PLANES, "--model.lr", "-1"], "model.lr must not be negative, got -1"),
        (["finetune", *CPU, *TINY_PLANES, "--features", "file"], "--features must be in a folder that can be written"),
        (
            ["prepare", "--preset", "fetal-heart-phantom", "--out", "p", "--least_frames", "99", "--most_frames", "9"],
            "--least_frames must lie in 1 .. --most_frames (9), got 99",
        ),
        (["prepare", "camus"], "--preset must name what to prepare, got none"),
    ],
)
def test_wrong_options_in_one_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert told in refusal(capsys, *words)


def test_interrupted_by_the_keyboard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step, command = Pretraining.training_step, ["pretrain", *CPU, *FRAMES, *SMALL, *SHORT, "--trainer.max_epochs", "2"]

    def interrupted(self: Pretraining, *args: Any) -> torch.Tensor:
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "training_step", interrupted)
        told = refusal(capsys, *command, code=130)
    assert told.startswith("interrupted; --ckpt_path last ")
    main([*command, "--ckpt_path", "last"])
    assert json.loads(Path("runs/usssl/pretrain/version_0/results.json").read_text())["epochs"] == 2


def planes_tables(folder: Path, test: str = "p3_0.png,b", validation: str = "p2_0.png,a") -> list[str]:
    """Options of three tables of pictures with the patient before the first "_" of a name."""
    names = [*(f"p{p}_{n}.png,{c}" for p in (0, 1) for n, c in enumerate("ab")), validation, test]
    for name in names:
        Image.new("L", (32, 32)).save(folder / name.split(",")[0])
    words = ["--data.source", "PlaneCsv"]
    for part, rows in (("train", names[:4]), ("validation", [validation]), ("test", [test])):
        (folder / f"{part}.csv").write_text("\n".join(["image_path,class", *rows]) + "\n")
        words += [f"--data.source.{part}", str(folder / f"{part}.csv")]
    return [*words, "--data.image_size", "32", "--data.batch_size", "4", "--model.init", "random"]


def test_bad_input_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(verb: str, *words: str) -> str:
        return refusal(capsys, verb, *CPU, *words)

    told = refused("finetune", *TINY_PLANES, "--data.fraction", "1")
    assert told == "data.fraction must leave every class at least one image, 1 % leaves none of the 4 of 3VV"
    told = refused("finetune", *planes_tables(tmp_path, test="p1_5.png,b"))
    assert told == "data.source: no patient may be in both train and test, but these are: p1"
    told = refused("finetune", *planes_tables(tmp_path, test="p3_0.png,c"))
    assert "every class of test must occur in training (a, b), got 'c'" in told
    told = refused("pretrain", *FRAMES, *SMALL, "--trainer.max_epochs", "2")
    assert told == "lr_schedule.warmup_epochs must be fewer than the epochs of the training (2), got 2"
    told = refused("pretrain", *FRAMES, *SMALL, "--model.lr_schedule.warmup_epochs", "-1")
    assert told == "lr_schedule.warmup_epochs must not be negative, got -1"
    videos = tmp_path / "videos"
    videos.mkdir()
    folder = ["--data.source", "VideoFolder", "--data.source.root", str(videos), *SMALL]
    assert refused("pretrain", *folder).startswith("data.source.root must hold videos (HDF5, mp4")
    for name in ("a.mp4", "a.dcm"):
        (videos / name).write_bytes(b"no such thing" * 40)
        told = refused("pretrain", *folder)
        assert "must be readable" in told
        assert name in told
        (videos / name).unlink()
    (videos / "clip").mkdir()
    Image.new("L", (40, 40)).save(videos / "clip/0.png")
    assert "number of frames to train on (1), got 8" in refused("pretrain", *folder)
    told = refused("pretrain", *folder, "--data.positive", "intra_video", "--data.batch_size", "2")
    assert "(1), got 2" in told


def test_nobody_is_tested_whom_the_backbone_has_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pack = {
        "images": rng.integers(0, 256, (24, 40, 40), dtype=np.uint8),
        "labels": np.arange(24) % 3,
        "class_names": np.array(["benign", "malignant", "normal"]),
        "split": np.repeat(["train", "val", "test"], [12, 6, 6]),
        "group": np.arange(24) // 3,
        "source_name": np.array([f"n{n}" for n in range(24)]),
    }
    np.savez("busi_128.npz", **pack)
    source = ["--data.source", "BusiFrames", "--data.source.root", str(tmp_path)]
    size = ["--data.load_size", "48", *SMALL, *SHORT, "--data.batch_size", "4"]
    main(["pretrain", *CPU, *source, *size, "--data.source.splits", "[train, test]", "--data.sampling.frame_skip", "1"])
    labelled = ["--data.source", "Busi", "--data.source.root", str(tmp_path), "--data.image_size", "32"]
    told = refusal(capsys, "finetune", *CPU, *labelled, "--data.patient", "group")
    assert told.endswith("no patient may be in both pretraining and test, but these are: 6, 7")
    main(["export", "--out", "seen.safetensors"])
    told = refusal(capsys, "finetune", *CPU, *labelled, "--model.init", "seen.safetensors")
    assert told.startswith("data.patient must name the column of patients where the backbone was pretrained on busi")


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "vicreg", "autoencoder", "inpaint"])
def test_methods_run_on_embedded_data(name: str) -> None:
    quick = ["--data.image_size", "32", "--data.batch_size", "8", "--trainer.fast_dev_run", "true"]
    cli = build_pretraining(["pretrain", "--config", f"{name}_resnet18", *CPU, *FRAMES, *quick])
    assert type(cli.model.method) is METHODS[name]
    assert cli.trainer.global_step == 1
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    config, default = cli.config["pretrain"], yaml.safe_load(config_path("usssl", "pretrain").read_text())
    assert cli.model.backbone.name == default["model"]["backbone"] == "resnet18"
    assert config.trainer.max_epochs == default["trainer"]["max_epochs"]


@pytest.mark.parametrize("config", sorted(set(config_names("usssl")) - {"finetune"}))
def test_shipped_configs_are_understood(config: str) -> None:
    words = ["pretrain", "--config", config]
    cli = PretrainCli(
        "usssl", Pretraining, UltrasoundVideoDataModule, words, parse_only=True, trainer_class=UltrasoundTrainer
    )
    assert cli.config["pretrain"].model.method.class_path.startswith("usssl.methods.")
