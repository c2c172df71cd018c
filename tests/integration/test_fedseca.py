"""The ``fedseca`` command as users run it: in process where that is the same, as real processes where it is not."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from fedseca.cli import main
from fedseca.grid import train
from fedseca.module import FederatedClassifier
from shared.commands import config_names
from shared.measurement import can_measure_peak

TINY = [
    *("--model.network.width", "2", "--data.fraction", "0.1", "--data.batch_size", "16"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(*words: str) -> None:
    main(["fit", *TINY, *words])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that a wrong command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("fedseca: ")
    return told[0].removeprefix("fedseca: ")


def newest_weights(run: Path) -> dict[str, torch.Tensor]:
    path = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = newest_weights(first), newest_weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------------- the front door


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["configs"]])
def test_the_front_door_imports_nothing_heavy(words: list[str]) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        from fedseca.cli import main
        main({words})
        heavy = {{"torch", "lightning", "numpy", "matplotlib", "jsonargparse"}} & set(sys.modules)
        sys.exit(f"imported {{heavy}}" if heavy else 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_configs_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs", "--help"])
    listed = capsys.readouterr().out
    main(["configs"])
    assert listed == capsys.readouterr().out
    lines = listed.strip().splitlines()
    assert [line.split()[0] for line in lines] == config_names("fedseca")
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


# ---------------------------------------------------------------------- runs


def test_fit_writes_a_whole_run_folder_and_test_scores_it(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.max_epochs", "2")
    assert "on real data (fashion-mnist-mini) after 2 rounds" in capsys.readouterr().out
    run = empty_folder / "runs" / "fedseca" / "fit" / "version_0"
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "metrics.csv", "results.json", "rounds.csv", "ledger.csv", "report.html"),
        *("checkpoints", "diagnostics", "curves.png", "confusion.png", "partition.png"),
    }
    results = json.loads((run / "results.json").read_text())
    assert results["seed"] == 73
    assert results["data"]["provenance"] == "real"
    assert results["model"]["pretrained"] == "none"
    assert results["model"]["aggregator"] == "FedSECA"
    assert results["model"]["weighting"] == "equal"
    assert results["model"]["bytes"]["up"] == 2 * 5 * results["model"]["payload_bytes"]
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["test/macro_f1"]) == pytest.approx(results["metrics"]["test/macro_f1"])
    assert all(rows[0][f"server/rho/client_{k}"] for k in range(5))

    main(["test", *TINY])
    scored = json.loads((run / "results_test.json").read_text())
    assert scored["metrics"]["test/macro_f1"] == pytest.approx(results["metrics"]["test/macro_f1"])


def test_predict_gives_probabilities(empty_folder: Path) -> None:
    fit("--trainer.max_epochs", "1")
    main(["predict", *TINY])
    with (empty_folder / "runs" / "fedseca" / "fit" / "version_0" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    assert {row["label"] for row in rows} == set(list(rows[0])[3:])
    for row in rows[::100]:
        scores = {name: float(value) for name, value in list(row.items())[3:]}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
        assert scores[row["predicted"]] == max(scores.values())


# Recipes on data that the user has: the fixture that writes 20 pictures of it, and a division that so few can bear.
ON_OWN_DATA = {
    "cifar10_resnet18": ("cifar10_binary", ["--data.partition", "WholeClasses"]),
    "isic2019_convnext": ("isic2019", ["--model.network.name", "test_convnext"]),
    "eurosat_deit": (
        "eurosat",
        ["--data.partition", "WholeClasses", "--data.clients", "5", "--model.network.name", "deit_tiny_patch16_224"],
    ),
}


@pytest.mark.parametrize("config", config_names("fedseca"))
def test_every_shipped_config_runs(config: str, empty_folder: Path, request: pytest.FixtureRequest) -> None:
    small = ["--data.fraction", "0.05"]
    if config in ON_OWN_DATA:
        archive, words = ON_OWN_DATA[config]
        small = ["--data.source.root", str(request.getfixturevalue(archive)), *words]
    main(["fit", "--config", config, *small, "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu"])
    assert not (empty_folder / "runs").exists()


@pytest.mark.parametrize("config", ON_OWN_DATA)
def test_a_recipe_asks_for_its_data(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.source.root is required by" in refusal(capsys, "fit", "--config", config)


def test_a_recipe_divides_by_the_columns_of_its_tables(cifar10_table: Path, empty_folder: Path) -> None:
    words = ["--data.source.root", str(cifar10_table), "--data.partition", "MergedShards", "--data.clients", "2"]
    small = ["--model.network", "SmallCNN", "--data.image_size", "32", "--model.byzantine", "[]", *TINY[-4:]]
    main(["fit", "--config", "cifar10_resnet18", *words, *small, "--trainer.max_epochs", "2"])
    run = empty_folder / "runs" / "fedseca" / "cifar10_resnet18" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["partition"] == "MergedShards(column='y_alpha_id', shards=100, min_size=2)"
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["val/macro_f1_round_start"] == rows[0]["val/macro_f1"]


def test_a_saved_config_repeats_the_run(empty_folder: Path) -> None:
    fit("--trainer.max_epochs", "1", "--model.aggregator", "TrimmedMean", "--model.attack", "SignFlip")
    first = empty_folder / "runs" / "fedseca" / "fit" / "version_0"
    main(["fit", "--config", str(first / "config.yaml")])
    assert_same_weights(first, first.with_name("version_1"))


def test_shipped_then_file_then_flag(empty_folder: Path) -> None:
    (empty_folder / "mine.yaml").write_text("seed_everything: 5\ndata:\n  batch_size: 8\n  clients: 6\n")
    fit("--trainer.max_epochs", "1", "--config", "mine.yaml", "--data.clients", "7")
    config = (empty_folder / "runs" / "fedseca" / "mine" / "version_0" / "config.yaml").read_text()
    assert "clients: 7\n" in config
    assert "batch_size: 16\n" in config  # a flag of TINY, in front of the file
    assert "seed_everything: 5\n" in config
    assert "max_epochs: 1\n" in config
    assert "gamma: 0.9\n" in config


@pytest.mark.parametrize("rule", ["FedAvg", "FedSECA", "CoordinateMedian", "TrimmedMean", "Krum", "CenteredClipping"])
@pytest.mark.parametrize("attack", ["NoAttack", "LabelFlip", "ALIE", "IPM", "SignFlip"])
def test_every_rule_runs_under_every_attack(rule: str, attack: str, empty_folder: Path) -> None:
    fit("--model.aggregator", rule, "--model.attack", attack, "--trainer.fast_dev_run", "1")


@pytest.mark.parametrize(
    "attack", ["Scale", "Fang", "Mimic", "MinMax", "MinSum", "MinMaxSumReleased", "AGRTailored", "ROP", "Random"]
)
def test_the_server_meets_every_other_attack(attack: str, empty_folder: Path) -> None:
    fit("--model.attack", attack, "--trainer.fast_dev_run", "1")


@pytest.mark.parametrize("attack", ["Mimic", "ROP"])
def test_an_attack_remembers_through_a_resume(attack: str, empty_folder: Path) -> None:
    fit("--model.attack", attack, "--trainer.max_epochs", "4", "--run.name", "whole")
    fit("--model.attack", attack, "--trainer.max_epochs", "2", "--run.name", "cut")
    main(["fit", "--run.name", "cut", "--ckpt_path", "last", "--trainer.max_epochs", "4"])
    runs = empty_folder / "runs" / "fedseca"
    assert_same_weights(runs / "whole" / "version_0", runs / "cut" / "version_0")


def test_fedseca_survives_what_averaging_does_not(empty_folder: Path) -> None:
    """Ten rounds on all images, two of five clients hostile: orderings alone, the margins stand in the benchmarks."""
    scores = {}
    for rule in ("FedAvg", "FedSECA"):
        for attack in ("NoAttack", "IPM", "SignFlip"):
            name = f"{rule}-{attack}"
            words = ["--model.aggregator", rule, "--model.attack", attack, "--trainer.max_epochs", "10"]
            main(["fit", "--model.network.width", "8", *TINY[-4:], *words, "--run.name", name])
            results = json.loads((empty_folder / "runs" / "fedseca" / name / "version_0" / "results.json").read_text())
            scores[name] = results["metrics"]["test/macro_f1"]
    assert scores["FedSECA-IPM"] > scores["FedAvg-IPM"]
    assert scores["FedSECA-SignFlip"] > scores["FedAvg-SignFlip"]
    assert scores["FedAvg-NoAttack"] > max(scores["FedAvg-IPM"], scores["FedAvg-SignFlip"])


# ---------------------------------------------------------------------- interruption


def test_killed_in_round_7_and_resumed_equals_uninterrupted(empty_folder: Path) -> None:
    """SIGKILL between two clients of round 7; then the same command with ``--ckpt_path last``."""
    rounds = ["--trainer.max_epochs", "9", "--model.client.keep_optimizer", "true"]
    fit(*rounds, "--run.name", "whole")
    script = textwrap.dedent(
        f"""
        import os, signal
        from fedseca.cli import main
        from fedseca.module import FederatedClassifier
        train = FederatedClassifier.train_client
        def killed(self, round, client, *rest):
            if (round, client) == (7, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            return train(self, round, client, *rest)
        FederatedClassifier.train_client = killed
        main({["fit", *TINY, *rounds, "--run.name", "killed"]})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = empty_folder / "runs" / "fedseca" / "killed" / "version_0"
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "round=0006.ckpt"

    main(["fit", "--run.name", "killed", "--ckpt_path", "last"])  # the run's own config holds everything else
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert_same_weights(run.parents[1] / "whole" / "version_0", run)
    series = [
        [(row["epoch"], row["test/macro_f1"], row["train/loss"]) for row in csv.DictReader(text.splitlines())]
        for text in ((run.parents[1] / name / "version_0" / "metrics.csv").read_text() for name in ("whole", "killed"))
    ]
    assert series[0] == series[1]
    assert len(series[0]) == 9
    totals = [
        json.loads((run.parents[1] / name / "version_0" / "results.json").read_text())["model"]["bytes"]
        for name in ("whole", "killed")
    ]
    assert totals[0] == totals[1]


def test_nothing_to_resume_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--ckpt_path last needs a run" in refusal(capsys, "fit", "--ckpt_path", "last")
    assert "--ckpt_path last needs a run" in refusal(capsys, "test", "--run.name", "nothing")


# ---------------------------------------------------------------------- two processes


def test_two_processes_give_the_weights_of_one(empty_folder: Path, one_thread: object) -> None:
    """Five clients of unequal size over two gloo processes: three train in one, two in the other."""
    words = ["fit", *TINY, "--trainer.max_epochs", "3", "--model.client.keep_optimizer", "true"]
    main([*words, "--run.name", "one"])
    command = [str(Path(sys.executable).with_name("fedseca")), *words, "--run.name", "two"]
    done = subprocess.run(
        [*command, "--trainer.strategy", "ddp", "--trainer.devices", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    runs = empty_folder / "runs" / "fedseca"
    assert [path.name for path in (runs / "two").iterdir()] == ["version_0"]
    assert_same_weights(runs / "one" / "version_0", runs / "two" / "version_0")
    counts = json.loads((runs / "two" / "version_0" / "results.json").read_text())["data"]["clients"]
    assert len({sum(classes) for classes in counts.values()}) > 1


# ---------------------------------------------------------------------- wrong input


WRONG: dict[str, tuple[list[str], str]] = {
    "missing data root": (["--data.source", "Idx", "--data.source.root", "none"], "data.source.root must be"),
    "unknown aggregator": (
        ["--model.aggregator", "Krumm"],
        "--model.aggregator must name a class of kind VectorAggregator, got Krumm; did you mean Krum?",
    ),
    "no such kind": (
        ["--model.aggregator", "torch.nn.Linear"],
        "choose from Bulyan, CenteredClipping, CoordinateMedian",
    ),
    "unknown option of a rule": (["--model.aggregator.gama", "1"], "did you mean gamma?"),
    "more hostile than honest": (["--model.byzantine", "[0,1,2]"], "more honest than hostile clients, got 3 hostile"),
    "krum without neighbours": (
        ["--model.aggregator", "Krum", "--model.aggregator.b", "3"],
        "Krum needs K - b - 2 >= 1, got b = 3 and K = 5",
    ),
    "unknown flag": (["--modl.seed", "1"], "unknown option modl.seed"),
    "wrong type": (["--trainer.max_epochs", "many"], "--trainer.max_epochs must be int or null, got many"),
    "nested wrong type": (["--data.partition.alpha", "x"], "--data.partition.alpha must be float, got x"),
    "missing argument": (["--data.source", "Npz"], "--data.source.path is required by Npz"),
    "unknown config": (["--config", "resnet"], "did you mean resnet18?"),
    "missing checkpoint": (["--ckpt_path", "none.ckpt"], "--ckpt_path must be an existing file"),
    "loss scaling": (["--trainer.gradient_clip_val", "1"], "gradient clipping is not supported"),
    "no gpu": (["--trainer.accelerator", "tpu"], "--trainer.accelerator must be auto or cpu"),
    "a word": (["resnet18"], "options must begin with --, got resnet18"),
    "no value": (["--model.aggregator"], "--model.aggregator must have a value, got none"),
    "shortened": (["--run.nam", "x"], "unknown option run.nam; did you mean run.name?"),
    "precision": (["--trainer.precision", "bf16-mix"], "bf16 or null, got bf16-mix; did you mean bf16-mixed"),
    "one of a few": (["--model.weighting", "nope"], "--model.weighting must be equal or samples, got nope"),
    "option of a factory": (["--model.network.width", "2.5"], "--model.network.width must be int, got 2.5"),
    "unknown of a factory": (
        ["--model.client.optimizer.lrr", "1"],
        "--model.client.optimizer.lrr is no option of AdamW",
    ),
    "schedule": (
        ["--model.client.scheduler", "StepR"],
        "--model.client.scheduler must name a class of kind LRScheduler",
    ),
    "learning rate": (["--model.client.optimizer.lr", "-1"], "AdamW refuses its options: Invalid learning rate: -1.0"),
    "augmentation": (
        ["--data.augment", "[{class_path: RandomErasing, init_args: {p: 2}}]"],
        "RandomErasing refuses its options: `p` should be",
    ),
    "seed of another kind": (["--seed_everything", "false"], "--seed_everything must be int, got false"),
    "too few clients": (
        ["--model.min_clients", "6"],
        "model.min_clients must be at most the 5 clients of a round, got 6",
    ),
    "no clients": (["--model.min_clients", "0"], "model.min_clients must be at least 1, got 0"),
    "not a group": (["--trainer", "3"], "--trainer must be a YAML file of options, got 3"),
    "help of no class": (["--model.aggregator.help", "Krumm"], "got Krumm; did you mean Krum?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = WRONG[case]
    assert sentence in refusal(capsys, "fit", *TINY, *words)


def test_wrong_input_leaves_no_run_behind(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    refusal(capsys, "fit", *TINY, "--model.min_clients", "6")
    refusal(capsys, "fit", *TINY, "--trainer.devices", "0")
    assert not list(empty_folder.glob("runs/fedseca/fit/*"))


def test_a_run_stays_below_its_root(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    told = "--run.name must be the name of one folder, below --run.root, got '../../x'"
    assert refusal(capsys, "fit", *TINY, "--run.name", "../../x") == told
    assert refusal(capsys, "test", "--run.name", "../../x") == told
    assert refusal(capsys, "fit", *TINY, "--run.root", "") == "--run.root must be a place, got ''"
    assert not list(empty_folder.iterdir())


def test_a_checkpoint_of_another_package_is_told(capsys: pytest.CaptureFixture[str], empty_folder: Path) -> None:
    run = empty_folder / "runs" / "fedsam" / "fit" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, run / "checkpoints" / "a.ckpt")
    (run / "config.yaml").write_text("# fedsam fit\nmodel:\n  variant: flap\n")
    for verb in ("fit", "test", "describe"):
        told = refusal(capsys, verb, "--ckpt_path", "runs/fedsam/fit/version_0/checkpoints/a.ckpt")
        assert told.startswith("--ckpt_path must be of a run of fedseca, got runs/fedsam/")
        assert told.endswith("a.ckpt, a run of fedsam")


def test_an_interrupted_run_says_so_and_goes_on(
    capsys: pytest.CaptureFixture[str], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = FederatedClassifier.train_client

    def interrupted(self: FederatedClassifier, round: int, *rest: Any) -> Any:
        if round == 1:
            raise KeyboardInterrupt
        return train(self, round, *rest)

    monkeypatch.setattr(FederatedClassifier, "train_client", interrupted)
    with pytest.raises(SystemExit) as stop:
        fit("--trainer.max_epochs", "2")
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip().startswith("fedseca: interrupted; --ckpt_path last goes on")
    monkeypatch.setattr(FederatedClassifier, "train_client", train)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The time of a run is that of its parts, and what makes it again is its config, not the words that went on.
    with monkeypatch.context() as patch:
        patch.setattr("shared.runs.time", SimpleNamespace(perf_counter=lambda: 0.0))
        main(["fit", "--ckpt_path", "last"])
    assert "after 2 rounds" in capsys.readouterr().out
    assert [path.name for path in (empty_folder / "runs" / "fedseca" / "fit").iterdir()] == ["version_0"]
    run = Path("runs/fedseca/fit/version_0")
    told = json.loads((run / "results.json").read_text())
    assert told["wall_seconds"] > 0.01
    assert told["command"] == f"fedseca fit --config {run}/config.yaml"


def test_a_group_of_options_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for group, other in (("model", "data"), ("data", "model"), ("trainer", "data")):
        with pytest.raises(SystemExit) as stop:
            main(["fit", f"--{group}.help"])
        assert stop.value.code == 0
        told = capsys.readouterr().out
        assert f"--{group}." in told
        assert f"--{other}." not in told


def test_an_unknown_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "ft") == "unknown command 'ft'; did you mean fit?"


def test_a_config_with_an_unknown_key_is_told(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "bad.yaml").write_text("model:\n  agregator: x\n")
    told = refusal(capsys, "fit", "--config", "bad.yaml")
    assert told.startswith("unknown option model.agregator; did you mean model.aggregator")


def test_a_broken_config_is_told(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "bad.yaml").write_text("model: [\n")
    assert "--config must be a YAML file of options, got bad.yaml (line 2: " in refusal(
        capsys, "fit", "--config", "bad.yaml"
    )


def test_a_label_out_of_range_is_told(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    images, labels = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    np.savez(empty_folder / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels + 1)
    told = refusal(capsys, "fit", "--data.source", "Npz", "--data.source.path", "a.npz")
    assert "label" in told
    assert "3" in told


def test_without_flower_its_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "shared.federated.flower.simulation", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    told = refusal(capsys, "fit", *TINY, "--engine", "flower")
    assert told == "--engine flower needs flwr and ray (pip install 'fedseca[simulation]'), found no ray"


def test_foreign_and_damaged_checkpoints_are_refused(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs", "1")
    path = empty_folder / "runs" / "fedseca" / "fit" / "version_0" / "checkpoints" / "round=0000.ckpt"
    wider = ["--model.network.width", "3"]
    assert "belongs to another model" in refusal(capsys, "test", *wider, "--ckpt_path", str(path))
    assert "belongs to another model" in refusal(capsys, "fit", *wider, "--ckpt_path", str(path))
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged" in refusal(capsys, "test", "--ckpt_path", str(path))
    assert "needs a run with a whole checkpoint" in refusal(capsys, "test", "--ckpt_path", "last")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--debug", "--config", "none"])
    assert "Traceback" in capsys.readouterr().err


# ---------------------------------------------------------------------- compare


def test_compare_resumes_and_draws(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], one_thread: Callable[[], None]
) -> None:
    grid = ["--rules", "[FedAvg, FedSECA]", "--attacks", "[NoAttack, SignFlip]", "--rounds", "2", "--seeds", "[1, 2]"]
    small = ["--", *TINY[:6], "--trainer.accelerator", "cpu"]
    main(["compare", *grid[:2], "--attacks", "[NoAttack]", *grid[4:], *small])
    first = (empty_folder / "runs" / "compare" / "results.csv").read_text()
    assert len(first.splitlines()) == 5
    capsys.readouterr()
    main(["compare", *grid, *small])
    told = capsys.readouterr().out
    out = empty_folder / "runs" / "compare"
    record = (out / "results.csv").read_text()
    assert record.startswith(first)
    assert len(record.splitlines()) == 9
    texts = {"command.txt", "results.csv", "results.csv.lock", "table.md", "report.html"}
    assert {path.name for path in out.iterdir()} == {"cells", "curves.png"} | texts
    assert "| FedSECA |" in told
    assert "real data" in told
    assert "mean ± sd of seeds 1, 2" in (out / "table.md").read_text()
    assert refusal(capsys, "compare", "--rulez", "x") == "unknown option rulez; did you mean rules?"


def test_sweep_goes_on_and_draws(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = '[FedAvg, "FedSECA:beta=0,gamma=0.5"]'
    grid = ["--rules", rules, "--attacks", '[NoAttack, "Fang:lam=0.2"]', "--seeds", "[1]", "--rounds", "1"]
    small = ["--", *TINY[:6], "--trainer.accelerator", "cpu"]
    main(["sweep", *grid, "--partitions", "[IID]", *small])
    out = empty_folder / "runs" / "sweep"
    first = (out / "results.csv").read_text()
    capsys.readouterr()
    main(["sweep", *grid, "--partitions", '["IID", "Dirichlet:alpha=0.5"]', *small])
    record = (out / "results.csv").read_text()
    assert record.startswith(first)
    assert len(record.splitlines()) == 1 + 2 * 2 * 2
    pictures = {"heatmap_IID.png", "heatmap_Dirichlet_alpha_0.5.png"}
    texts = {"results.csv", "results.csv.lock", "table.md", "command.txt", "report.html"}
    assert {path.name for path in out.iterdir()} == {"cells"} | texts | pictures
    told = capsys.readouterr().out
    assert "collapses under" in told
    assert (out / "table.md").read_text().strip() in told
    assert shlex.split((out / "command.txt").read_text()) == [
        *("fedseca", "sweep", *grid, "--partitions", '["IID", "Dirichlet:alpha=0.5"]', *small)
    ]
    (run,) = (out / "cells" / "fedseca").glob("FedSECA*Fang*IID/version_0")
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert [model["aggregator"]["init_args"][option] for option in ("beta", "gamma")] == [0, 0.5]
    assert model["attack"]["init_args"]["lam"] == 0.2
    assert {row["rule"] for row in csv.DictReader(record.splitlines())} == {"FedAvg", "FedSECA:beta=0,gamma=0.5"}


def test_a_sweep_with_a_wrong_entry_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    unquoted = refusal(capsys, "sweep", "--rules", "[FedSECA:beta=0,gamma=0.5]")
    assert unquoted.startswith("rules must hold CLASS or CLASS:OPTION=VALUE")
    assert unquoted.endswith("in quotes, got 'gamma=0.5'")
    assert refusal(capsys, "sweep", "--attacks", "[]") == "attacks must hold at least one, got []"
    assert refusal(capsys, "compare", "--seeds", "[]") == "seeds must hold at least one, got []"


def test_a_run_that_an_attack_blows_up_is_a_result(empty_folder: Path) -> None:
    attack = ["--model.attack", "Scale", "--model.attack.factor", "1e30", "--model.aggregator", "FedAvg"]
    row = train(("fit", *TINY, *attack, "--trainer.max_epochs", "5", "--run.root", "runs"))
    assert "good uploads of 5" in row["ended"]
    assert "NaN or infinite values" in row["ended"]
    assert 1 <= int(row["rounds"]) < 5
    assert float(row["macro_f1"]) < 0.1
    assert len(row["curve"].split()) == int(row["rounds"])


def test_a_row_of_a_grid_tells_what_the_run_cost(empty_folder: Path) -> None:
    row = train(("fit", *TINY, "--trainer.max_epochs", "3", "--run.root", "runs", "--run.name", "cost"))
    folder = empty_folder / "runs" / "fedseca" / "cost" / "version_0"
    with (folder / "ledger.csv").open() as file:
        entries = list(csv.DictReader(file))
    for direction in ("up", "down"):
        total = sum(int(entry["bytes"]) for entry in entries if entry["direction"] == direction)
        assert float(row[f"bytes_{direction}_per_round"]) == total / 3 > 0
    with (folder / "rounds.csv").open() as file:
        whole = sum(float(entry["seconds"]) for entry in csv.DictReader(file)) / 3
    assert 0 < float(row["server_seconds_per_round"]) < whole
    if can_measure_peak():
        # Python with torch takes a hundred megabytes at least; what no machine holds would be a wrong unit.
        assert 100 < float(row["peak_resident_mb"]) < 1e6
    else:
        assert row["peak_resident_mb"] == ""


# ---------------------------------------------------------------------- wrong words for the trainer, files in the way


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trainer.strategy", "nope"], "--trainer.strategy cannot be nope: You selected an invalid strategy name"),
        (["--trainer.accelerator", "warp"], "--trainer.accelerator must be auto or cpu"),
        (["--trainer.max_epochs", "-7"], "--trainer.max_epochs must be at least -1, for no end, got -7"),
        (["--trainer.max_time", "x"], "--trainer.max_time cannot be x: `Timer(duration='x')` is not a valid duration"),
        (["--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches must be above 0, got 0"),
        (["--trainer.val_check_interval", "9"], "--trainer.val_check_interval cannot be 9: "),
        (["--checkpoint.monitor", "val/x"], "--checkpoint.monitor must name a metric that is logged, got val/x"),
        (
            ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitor: trai/loss}}]"],
            "--trainer.callbacks: monitor must name a metric that is logged, got trai/loss; did you mean train/loss?",
        ),
        (["--checkpoint.dirpath", "x"], "--checkpoint.dirpath must be null, for the run folder has them, got "),
        (["--checkpoint.filename", "../x"], "--checkpoint.filename must be a name without folders, got ../x"),
        (["--trainer.precision", "64-true"], "--trainer.precision must be one for float32 images"),
        (["--trainer.devices", "abc"], "--trainer.devices cannot be abc: `devices` selected with `CPUAccelerator`"),
        (
            ["--trainer.check_val_every_n_epoch", "0"],
            "--trainer.check_val_every_n_epoch must be at least 1 or null, got 0",
        ),
        (["--seed_everything", "-1"], "--seed_everything must lie in 0 .. 4294967295, got -1"),
        (["--run.root", "file"], "--run.root must be a folder that can be written, got file (Not a directory)"),
        (["--config", "latin.yaml"], "--config must be a YAML file in UTF-8, got latin.yaml"),
        (["--config", "word.yaml"], "--config must be a YAML file of options, got word.yaml, which holds hello"),
        (["--config", "number.yaml"], "trainer must hold options or be left out, got 3 in number.yaml"),
        (["--config", "nothing.yaml"], "model.client must hold options or be left out, got nothing in nothing.yaml"),
        (["--config", "run.yaml"], "run must hold options or be left out, got mine in run.yaml"),
        (["--config", "group.yaml"], "unknown option modell.seed; did you mean model.seed"),
    ],
)
def test_what_lightning_or_the_disk_refuses_is_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("no folder")
    Path("latin.yaml").write_bytes("model: # für\n".encode("latin-1"))
    Path("word.yaml").write_text("hello\n")
    Path("number.yaml").write_text("trainer: 3\n")
    Path("nothing.yaml").write_text("model:\n  seed: 3\n  client:\n    # epochs: 3\n")
    Path("run.yaml").write_text("model:\n  seed: 3\nrun: mine\n")
    Path("group.yaml").write_text("modell:\n  seed: 3\n")
    small = TINY if words[0] != "--config" else []
    assert refusal(capsys, "fit", *small, *words).startswith(told)


def test_a_finished_run_that_is_resumed_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/fedseca/fit/version_0")
    fit("--trainer.max_epochs", "1")
    before = {name: (run / name).read_bytes() for name in ("results.json", "report.html", "metrics.csv")}
    capsys.readouterr()
    fit("--trainer.max_epochs", "1", "--ckpt_path", "last")
    assert "nothing to train: trainer.max_epochs is 1" in capsys.readouterr().out
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["sweep", "--workers", "-1"], "--workers must be at least 1, got -1"),
        (["sweep", "--nope", "1"], "unknown option nope; choose from attacks, config, out, partitions, rounds, rules"),
        (["compare", "--config", "file"], "--config must be a YAML file of options, got file, which holds no folder"),
        (["sweep", "--out", "file"], "--out cannot be file (File exists)"),
        (["bench", "--device", "gpu"], "--device must be cpu or cuda, got gpu"),
        (["bench", "--rules", "Krum:b"], "--rules must hold CLASS or CLASS:OPTION=VALUE, got 'Krum:b'"),
        (
            ["bench", *("--rules", "FedAvg", "--clients", "2", "--sizes", "9", "--repeats", "1"), "--out", "file"],
            "--out",
        ),
        (["partition", "--out", "file"], "--out must be in a folder that can be written, got file (File exists)"),
        (["partition", "--out", ""], "--out must be a place, got ''"),
        (["prepare", "--preset", "blobs", "--out", "x", "--layout", "zip"], "--layout must be folders or npz, got zip"),
        (["prepare", "--preset", "blobs", "--out", "x", "--train", "0"], "--train must be at least 1, got 0"),
        (["prepare", "--preset", "blobs", "--out", "x", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (
            ["prepare", "--preset", "fed-isic2019", "--out", "x", "--root", ".", "--shorter_side", "0"],
            "--shorter_side must be at least 1, got 0",
        ),
        (["describe", "--classes", "3"], "--classes must be that of the data, 10, got 3"),
        (["describe", "--data.source", "Npz", "--classes", "1"], "--classes must be at least 2, got 1"),
    ],
)
def test_the_other_verbs_refuse_in_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("no folder")
    assert refusal(capsys, *words).startswith(told)


def test_a_comparison_has_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "compare", "--rounds", "0") == "--rounds must be at least 1, got 0"
