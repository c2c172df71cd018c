"""The ``fedsam`` command as users run it: in process where that is the same, as real processes where it is not."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

from fedsam.cli import main
from fedsam.export import export_stock_sam
from fedsam.sam import Sam
from shared.commands import config_names
from shared.federated.client_states import read_packed
from shared.model_card import NOT_MEDICAL

PHANTOM = ["--data.source", "CtKidneyPhantom", "--data.source.scale", "0.01", "--data.source.slices", "6"]
DATA = [*PHANTOM, "--data.source.size", "32", "--data.sites", "[site-A, site-B, site-C]"]
SMALL = ["--data.image_size", "32", "--data.stride", "3", "--model.rank", "2", "--model.scores.distances", "false"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY = [*DATA, *SMALL, *QUIET]
HEADS = ["--data.source.train", "[1, 1, 1]", "--data.source.validation", "[1, 0, 0]", "--data.source.test", "[1, 0, 0]"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(*words: str) -> Path:
    main(["fit", *TINY, "--trainer.max_epochs", "1", *words])
    return Path("runs/fedsam/fit/version_0")


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that a wrong command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    return told[0].removeprefix("fedsam: ")


def newest_weights(run: Path) -> dict[str, torch.Tensor]:
    path = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = newest_weights(first), newest_weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def write_scan(
    path: Path, shape: tuple[int, int, int] = (24, 30, 7), dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """A scan with axes turned and exchanged; returns its affine."""
    affine = np.array([[0, -1.5, 0, 40], [0, 0, 2.5, -7], [-0.8, 0, 0, 3], [0, 0, 0, 1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(100, 20, shape).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return affine


# ---------------------------------------------------------------------- the front door


@pytest.mark.parametrize("words", [[], ["configs"], ["prepare"], ["describe", "--help"], ["export", "--help"]])
def test_the_front_door_imports_nothing_heavy(words: list[str]) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from fedsam.cli import main
        main({words})
        heavy = {{"torch", "lightning", "numpy", "matplotlib", "jsonargparse"}} & set(sys.modules)
        sys.exit(f"imported {{heavy}}" if heavy else 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_configs_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines] == config_names("fedsam")
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


ON_OWN_DATA = {"flap_kits", "flap_ixi", "flap_prostate", "hippocampus"}


@pytest.mark.parametrize("config", config_names("fedsam"))
def test_every_shipped_config_runs(config: str, empty_folder: Path) -> None:
    # The default runs on its own data, the others on smaller ones.
    source = [*HEADS, "--data.stride", "90"] if config == "fit" else DATA
    small = ["--model.size", "tiny", "--data.batch_size", "2", "--data.interpolation", "linear"]
    words = [*source, *SMALL[:2], *small, "--model.adapter_channels", "4", *QUIET]
    main(["fit", "--config", config, *words, "--model.scores.distances", "false", "--trainer.fast_dev_run", "1"])
    assert not (empty_folder / "runs").exists()


@pytest.mark.parametrize("config", sorted(ON_OWN_DATA))
def test_a_recipe_asks_for_its_data(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.source.root is required by" in refusal(capsys, "fit", "--config", config)


# ---------------------------------------------------------------------- runs


def rows_of(run: Path) -> list[dict[str, str]]:
    """The scores of each volume that ``fedsam test`` wrote."""
    with (run / "volumes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_test_and_predict(capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--trainer.max_epochs", "2", "--model.scores.distances", "true")
    assert "on synthetic data (ct-kidney-phantom) after 2 rounds" in capsys.readouterr().out
    assert {"config.yaml", "metrics.csv", "results.json", "scans.json", "ledger.csv", "report.html"} <= {
        path.name for path in run.iterdir()
    }
    model = json.loads((run / "results.json").read_text())["model"]
    assert model["bytes"]["up"] == 2 * 3 * model["payload_bytes"]
    assert 4 * model["trainable"] <= model["payload_bytes"] < 4 * model["trainable"] + 20_000
    page = (run / "report.html").read_text()
    assert ">Dice kidney<" in page
    assert ">surface Dice<" in page
    assert "model of" not in page

    main(["test", *QUIET])
    told = capsys.readouterr().out
    rows = rows_of(run)
    assert [(row["site"], row["case"], row["class"]) for row in rows] == [
        (f"site-{site}", "test-00", name) for site in "ABC" for name in ("kidney", "tumour")
    ]
    kidney, tumour = (float(row["dice"]) for row in rows[:2])
    assert re.search(rf"^site-A +{kidney:.3f} +{tumour:.3f} ", told, re.MULTILINE)
    assert "Test metric" not in told
    scored = json.loads((run / "results_test.json").read_text())["metrics"]["test/dice_pooled"]
    assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(scored, abs=1e-5)

    main(["predict", "--device", "cpu"])
    told = capsys.readouterr().out
    assert f"(Dice {float(rows[0]['dice']):.3f})" in told
    assert {path.name for path in (run / "predictions").iterdir()} == {
        f"site-{site}_test-00.{kind}" for site in "ABC" for kind in ("nii.gz", "png")
    }


@pytest.mark.parametrize("own", [["--model.regime", "local"], ["--model.num_lora", "2"]])
def test_where_each_site_has_a_model_of_its_own_one_is_chosen(
    own: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--model.lora_init", "reference", *own)
    assert "Dice of each site&#x27;s own model" in (run / "report.html").read_text()
    capsys.readouterr()
    main(["test", *QUIET])
    assert re.search(r"^model of +on site-A +on site-B +on site-C +mean$", capsys.readouterr().out, re.MULTILINE)
    rows = rows_of(run)
    assert [row["model"] for row in rows] == [f"site-{site}" for site in "ABC" for _ in range(6)]

    needed = (
        "--site must name the site whose model is wanted, since in this run each has its own: site-A, site-B, site-C"
    )
    assert refusal(capsys, "predict") == f"{needed}, got none"
    main(["predict", "--device", "cpu", "--site", "site-B"])
    told = capsys.readouterr().out
    for row in rows[6:12]:
        (line,) = [line for line in told.splitlines() if f"/{row['site']}_{row['case']}" in line]
        assert f"{run}/predictions/site-B/" in line
        assert f"{row['class']} " in line
        assert f"(Dice {float(row['dice']):.3f})" in line
    assert "(model of site-B trained on synthetic data" in told

    export = ["export", "--what", "merged", "--out", "b.safetensors", "--site"]
    assert refusal(capsys, *export, "B") == f"{needed}, got B"
    main([*export, "site-B"])
    assert "The model of site-B alone" in (empty_folder / "b.safetensors.MODEL_CARD.md").read_text()
    write_scan(empty_folder / "scan.nii.gz")
    predict = ["predict", "--scans", "scan.nii.gz", "--device", "cpu", "--out"]
    main([*predict, "one", "--site", "site-B"])
    main([*predict, "two", "--weights", "b.safetensors"])
    masks = [np.asarray(nibabel.load(empty_folder / out / "scan.nii.gz").dataobj) for out in ("one", "two")]
    assert len(np.unique(masks[0])) > 1
    assert np.mean(masks[0] != masks[1]) < 1e-2  # folding LoRA in rounds otherwise


def test_a_site_that_never_trained_has_no_model(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit("--model.num_lora", "2", "--model.participation", "0.3")
    trained = {path.stem for path in (run / "clients").iterdir()}
    assert len(trained) == 1
    (number,) = (int(re.sub(r"\D", "", name)) for name in trained)
    idle = "ABC"[(number + 1) % 3]
    told = refusal(capsys, "predict", "--device", "cpu", "--site", f"site-{idle}")
    assert told == f"--site must name a site that finished a round, got site-{idle}"


PREPARED = ["--scale", "0.01", "--slices", "6", "--size", "32"]


def test_scans_are_segmented_without_the_training_data(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on prepared files that are gone when the scans come, whose slices are no squares and whose numbers may be
    doubles; the written grid is the scan's own."""
    main(["prepare", "--preset", "ct-kidney-phantom", "--out", "kidneys", *PREPARED])
    source = ["--data.source", "Decathlon", "--data.source.root", "kidneys", "--data.source.sites", "kidneys/sites.csv"]
    main(["fit", *source, *SMALL, *QUIET, "--trainer.max_epochs", "1"])
    (empty_folder / "kidneys").rename(empty_folder / "elsewhere")
    affine = write_scan(empty_folder / "in" / "scan.nii.gz")
    write_scan(empty_folder / "in" / "other.nii", dtype=np.float64)
    capsys.readouterr()
    main(["predict", "--scans", "in", "--out", "masks", "--device", "cpu"])
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[:2]] == ["masks/other.nii.gz", "masks/scan.nii.gz"]
    assert "kidney" in told[0]
    assert "tumour" in told[0]
    assert "trained on synthetic data" in told[2]
    written = nibabel.load(empty_folder / "masks" / "scan.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    assert written.shape == (24, 30, 7)
    assert written.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(written.dataobj))) <= {0, 1, 2}
    assert (empty_folder / "masks" / "scan.png").is_file()
    assert "--scans must name existing files or folders, got none" in refusal(capsys, "predict", "--scans", "none")


def test_real_hippocampi_are_segmented(empty_folder: Path, data_pack: Callable[[str], Path]) -> None:
    images = data_pack("hippocampus") / "Task04_Hippocampus" / "imagesTr"
    fit()
    scans = sorted(map(str, images.glob("*.nii.gz")))[:2]
    main(["predict", "--scans", *scans, "--out", "masks", "--device", "cpu"])
    for scan in scans:
        image, mask = nibabel.load(scan), nibabel.load(empty_folder / "masks" / Path(scan).name)
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)


# ---------------------------------------------------------------------- export


def card_of(path: Path) -> str:
    """Text of the card beside an exported file, which names the file's true digest and no folder of this machine."""
    card = path.with_name(f"{path.name}.MODEL_CARD.md").read_text()
    assert f"`{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in card
    assert NOT_MEDICAL in card.splitlines()
    assert str(path.resolve().parent) not in card
    return card


def test_a_whole_model_is_exported_and_segments_the_same(
    empty_folder: Path, loaded: Callable[[Path], dict[str, Any]]
) -> None:
    fit("--model.lora_init", "reference")
    write_scan(empty_folder / "scan.nii.gz")
    main(["predict", "--scans", "scan.nii.gz", "--out", "one", "--device", "cpu"])
    main(["export", "--what", "merged", "--out", "out/model.safetensors"])
    main(["predict", "--scans", "scan.nii.gz", "--weights", "out/model.safetensors", "--out", "two", "--device", "cpu"])
    masks = [np.asarray(nibabel.load(empty_folder / out / "scan.nii.gz").dataobj) for out in ("one", "two")]
    assert np.mean(masks[0] != masks[1]) < 1e-3  # folding LoRA in rounds otherwise
    card = card_of(empty_folder / "out" / "model.safetensors")
    assert "variant flap" in card
    assert "- data: ct-kidney-phantom (synthetic data)" in card
    assert "- classes: 0 background, 1 kidney, 2 tumour" in card
    assert "- pretrained: yes: the small SAM that comes with fedsam, SHA-256" in card
    assert "| test/dice |" in card
    config = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert config["model"]["rank"] == 2
    trained = loaded(empty_folder / "out" / "model.safetensors.MODEL_CARD.md")["trained"]
    numbers = sum(tensor.numel() for tensor in trained.segmenter.network.state_dict().values())
    assert f"- parameters: {numbers:,} in the file" in card
    # Another hospital goes on from it.
    main(["fit", *TINY, "--model.init", "out/model.safetensors", "--trainer.max_epochs", "1", "--run.name", "on"])
    assert json.loads(Path("runs/fedsam/on/version_0/results.json").read_text())["model"]["pretrained"] == "file"


def test_adapters_go_with_their_base(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], loaded: Callable[[Path], dict[str, Any]]
) -> None:
    torch.manual_seed(5)
    export_stock_sam(Sam("tiny", 32, 3, "samed"), empty_folder / "sam.pth")
    torch.manual_seed(6)
    export_stock_sam(Sam("tiny", 32, 3, "samed"), empty_folder / "other.pth")
    fit("--model.init", "sam.pth")
    write_scan(empty_folder / "scan.nii.gz")
    main(["predict", "--scans", "scan.nii.gz", "--out", "one", "--device", "cpu"])
    main(["export", "--what", "adapters", "--out", "a.safetensors"])
    assert (empty_folder / "a.safetensors").stat().st_size < 500_000
    words = ["predict", "--scans", "scan.nii.gz", "--weights", "a.safetensors", "--out", "two", "--device", "cpu"]
    assert "--base must name the SAM checkpoint" in refusal(capsys, *words)
    assert "--base must be the file that the adapters were trained on" in refusal(capsys, *words, "--base", "other.pth")
    main([*words, "--base", "sam.pth"])
    assert "- pretrained: yes: weights of the file sam.pth, SHA-256" in card_of(empty_folder / "a.safetensors")
    trained = loaded(empty_folder / "a.safetensors.MODEL_CARD.md")["trained"]
    assert trained.reading.class_names == ("background", "kidney", "tumour")
    masks = [np.asarray(nibabel.load(empty_folder / out / "scan.nii.gz").dataobj) for out in ("one", "two")]
    np.testing.assert_array_equal(masks[0], masks[1])


def test_adapters_without_the_heads_are_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--model.variant", "attn_paper")
    told = refusal(capsys, "export", "--what", "adapters", "--out", "a.safetensors")
    assert told == (
        "--what adapters needs a variant that trains the heads, which no SAM checkpoint holds; attn_paper leaves "
        "decoder.hypernetworks, decoder.mask_tokens, decoder.upscaling as drawn: take --what merged"
    )


def test_export_says_what_it_cannot_do(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], loaded: Callable[[Path], dict[str, Any]]
) -> None:
    fit("--model.init", "random")
    out = ["--out", "a.safetensors"]
    assert "--what must be merged, adapters or sam, got x" in refusal(capsys, "export", "--what", "x", *out)
    assert "--out must end in .safetensors" in refusal(capsys, "export", "--what", "merged", "--out", "a.pth")
    assert "started from random weights: take --what merged" in refusal(capsys, "export", "--what", "adapters", *out)
    main(["export", "--what", "sam", "--out", "sam.pth"])
    told = capsys.readouterr().out
    assert "absent (mask_decoder" in told
    card = card_of(empty_folder / "sam.pth")
    assert told.splitlines()[0].removeprefix("sam.pth: ") in card
    assert "- pretrained: no: random weights" in card
    state = loaded(empty_folder / "sam.pth.MODEL_CARD.md")["state"]
    assert f"{len(state)} tensors" in card
    assert "file that `fedsam export` wrote" in refusal(
        capsys, "predict", "--weights", str(saved_elsewhere(empty_folder)), "--scans", "x", "--out", "y"
    )


def saved_elsewhere(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, folder / "strange.safetensors")
    return folder / "strange.safetensors"


# ---------------------------------------------------------------------- interruption and processes


def test_killed_in_round_1_and_resumed_equals_uninterrupted(empty_folder: Path) -> None:
    rounds = ["--trainer.max_epochs", "3"]
    main(["fit", *TINY, *rounds, "--run.name", "whole"])
    script = textwrap.dedent(
        f"""
        import os, signal
        from fedsam.cli import main
        from fedsam.module import FederatedSegmenter
        train = FederatedSegmenter.train_client
        def killed(self, round, client, *rest):
            if (round, client) == (1, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            return train(self, round, client, *rest)
        FederatedSegmenter.train_client = killed
        main({["fit", *TINY, *rounds, "--run.name", "killed"]})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = empty_folder / "runs" / "fedsam" / "killed" / "version_0"
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "round=0000.ckpt"
    main(["fit", "--run.name", "killed", "--ckpt_path", "last"])
    assert_same_weights(run.parents[1] / "whole" / "version_0", run)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.num_lora", "2", "--model.client.scheduler", "WarmupPolyLR", "--model.client.scheduler.epochs", "3"],
        ["--model.regime", "local"],
    ],
    ids=["federated", "local"],
)
def test_two_processes_give_the_weights_of_one(options: list[str], empty_folder: Path, one_thread: None) -> None:
    words = ["fit", *TINY, "--trainer.max_epochs", "2"]
    main([*words, *options, "--run.name", "one"])
    arguments = [*words, *options, "--run.name", "two", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    (empty_folder / "two.py").write_text(f"from fedsam.cli import main\nmain({arguments})\n")
    done = subprocess.run(
        [sys.executable, "two.py"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    one, two = (empty_folder / "runs" / "fedsam" / name / "version_0" for name in ("one", "two"))
    assert_same_weights(one, two)
    # What stays with each client: its own tensors, the optimiser's moments, the steps of the schedule.
    states = sorted(path.relative_to(one) for path in (one / "clients").rglob("*.safetensors"))
    assert states == sorted(path.relative_to(two) for path in (two / "clients").rglob("*.safetensors"))
    assert {path.parent.name for path in states} == {f"client={k:04d}" for k in range(3)}
    for path in states:
        ours, theirs = read_packed(one / path), read_packed(two / path)
        assert ours.keys() == theirs.keys()
        assert any(name.startswith("personal/") for name in ours)
        assert ("schedule/steps" in ours) == ("--model.num_lora" in options)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------------- sweep


def test_sweep_resumes_and_draws(capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    grid = ["--rounds", "1", "--workers", "1", "--seeds", "[1]"]
    main(["sweep", "--variants", "[flap]", *grid, "--", *DATA, *SMALL, *QUIET[:2]])
    out = Path("runs/sweep")
    first = (out / "results.csv").read_text()
    assert len(first.splitlines()) == 3
    capsys.readouterr()
    main(["sweep", "--variants", "[flap, partial_decoder]", *grid, "--", *DATA, *SMALL, *QUIET[:2]])
    record = (out / "results.csv").read_text()
    assert record.startswith(first)
    assert {"results.csv", "table.md", "table.csv", "dice.png", "command.txt", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    told = capsys.readouterr().out
    assert "| partial_decoder | federated |" in told
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["regime"]) for row in rows] == [
        (variant, regime) for variant in ("flap", "partial_decoder") for regime in ("federated", "local")
    ]
    assert all(row["gain, points"] for row in rows[::2])
    assert [row["a message"] for row in rows[1::2]] == ["none", "none"]


# ---------------------------------------------------------------------- wrong input

WRONG: dict[str, tuple[list[str], str]] = {
    "unknown variant": (["--model.variant", "flop"], "model.variant must be one of"),
    "unknown source": (["--data.source", "MiniIxy"], "did you mean MiniIxi?"),
    "image size": (["--data.image_size", "50"], "data.image_size must be a multiple of 16, got 50"),
    "unknown config": (["--config", "flap_225"], "did you mean"),
    "no weights": (["--model.init", "none.pth"], "none.pth"),
    "unknown rule": (["--model.aggregator", "SVDExat"], "did you mean SVDExact"),
    "missing checkpoint": (["--ckpt_path", "last"], "--ckpt_path last needs a run"),
    "regime": (["--model.regime", "alone"], "--model.regime must be federated, local or centralised, got alone"),
    "the only kind": (
        ["--model.loss", "Nope"],
        "kind CrossEntropyDiceLoss, got Nope; choose from CrossEntropyDiceLoss",
    ),
    "no gpu": (["--trainer.accelerator", "warp"], "--trainer.accelerator must be auto or cpu"),
    "above the root": (["--run.name", "../x"], "--run.name must be the name of one folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = WRONG[case]
    assert sentence in refusal(capsys, "fit", *TINY, *words)


def test_the_verbs_refuse_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean flap" in refusal(capsys, "sweep", "--variants", "[flapp]")
    assert refusal(capsys, "sweep", "--seeds", "[]") == "seeds must hold at least one, got []"
    assert "did you mean mini-ixi" in refusal(capsys, "prepare", "--preset", "mini-ixy", "--out", "x")
    assert "--ckpt_path last needs a run" in refusal(capsys, "predict")
    assert refusal(capsys, "sweep", "--workers", "0") == "--workers must be at least 1, got 0"
    assert refusal(capsys, "describe", "--clients", "0") == "--clients must be at least 1, got 0"
    assert refusal(capsys, "prepare", "--preset", "ct-kidney-phantom", "--out", "x", "--size", "1").startswith(
        "--size "
    )


def test_the_verbs_on_a_run_refuse_in_one_sentence(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    Path("file").write_text("no folder")
    Path("none").mkdir()
    assert refusal(capsys, "predict", "--site", "x").startswith("--site must name a site of the training data")
    assert refusal(capsys, "predict", "--base", "x") == "--base must come with --weights, got x alone"
    assert refusal(capsys, "predict", "--scans", "none").startswith("--scans: a folder must hold NIfTI files or one")
    assert refusal(capsys, "predict", "--out", "file") == "--out cannot be file (File exists)"
    out = ["export", "--what", "merged", "--out"]
    assert refusal(capsys, *out, "file/x.safetensors") == "--out cannot be file/x.safetensors (File exists)"
    assert refusal(capsys, *out, "/proc/x.safetensors").startswith("--out cannot be /proc/x.safetensors (")
    sam = ["export", "--what", "sam", "--out", "x.pth", "--image_size"]
    assert refusal(capsys, *sam, "-16") == "--image_size must be a positive multiple of 16, got -16"
    assert refusal(capsys, *sam, "0") == "--image_size must be a positive multiple of 16, got 0"


def test_a_sweep_has_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "sweep", "--rounds", "0") == "--rounds must be at least 1, got 0"
