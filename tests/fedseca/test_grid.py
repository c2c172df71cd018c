"""The runs of a grid: what an entry stands for, and what tells one run from another."""

from importlib.metadata import version
from pathlib import Path

import pytest

from fedseca.grid import cell, different, entry_options
from fedseca.options import FitOptions
from shared.commands import config_path
from shared.errors import UsageError
from shared.sweep import Cell, fingerprint

CONFIGS = [config_path("fedseca", "fit")] * 2
CODE = f"{version('fedseca')} {version('medley-shared')}"


def test_entries_without_options_keep_their_fingerprint() -> None:
    """A record that was begun must be gone on with: these words, in this order, are what its rows are keyed by."""
    run = ["--seed_everything", "73", "--data.seed", "73", "--trainer.max_epochs", "25", "--model.network.width", "16"]
    words = ["--model.aggregator", "Krum", "--model.attack", "ALIE", *run]
    ours = cell("Krum", "ALIE", 73, 25, "fit", Path("out"), run[-2:])
    assert ours.fingerprint == fingerprint(words, CONFIGS, CODE)
    words += ["--data.partition", "Dirichlet", "--data.partition.alpha=1.0"]
    ours = cell("Krum", "ALIE", 73, 25, "fit", Path("out"), run[-2:], "Dirichlet:alpha=1.0")
    assert ours.fingerprint == fingerprint(words, CONFIGS, CODE)
    assert ours.label == "Dirichlet:alpha=1.0 · Krum · ALIE · 73"


def test_options_reach_the_run_and_tell_it_from_others() -> None:
    plain = cell("FedSECA", "ALIE", 1, 2, "fit", Path("out"), [])
    options = cell("FedSECA:beta=0,gamma=0.5", "ALIE:z=0.5", 1, 2, "fit", Path("out"), [])
    assert options.fingerprint != plain.fingerprint
    assert list(options.key.values()) == ["FedSECA:beta=0,gamma=0.5", "ALIE:z=0.5", "1"]
    told = " ".join(options.words)
    assert (
        "--model.aggregator FedSECA --model.aggregator.beta=0 --model.aggregator.gamma=0.5 --model.attack ALIE" in told
    )
    assert "--model.attack.z=0.5" in told
    assert "--run.name FedSECA-beta=0,gamma=0.5-ALIE-z=0.5-1" in told


def test_a_config_of_all_runs_decides_less_than_the_grid_and_belongs_to_the_key(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"

    def run(attack: str) -> Cell:
        mine.write_text(f"model: {{attack: {attack}, byzantine: [1]}}\n")
        return cell("Krum", "SignFlip", 1, 2, "fit", tmp_path, ["--config", str(mine)])

    chosen = FitOptions(run("ALIE").words, {}).chosen
    assert (chosen.model.attack.class_path, chosen.model.byzantine) == ("fedseca.attacks.SignFlip", [1])
    assert run("ALIE").fingerprint != run("IPM").fingerprint


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("Krum", ["Krum"]),
        ("fedseca.aggregators.Krum:b=1", ["fedseca.aggregators.Krum", "F.b=1"]),
        ("A:x=[1,2],y={a: 1, b: 2}", ["A", "F.x=[1,2]", "F.y={a: 1, b: 2}"]),
        ("A:x.y=1,z=a=b", ["A", "F.x.y=1", "F.z=a=b"]),
    ],
)
def test_entries(entry: str, words: list[str]) -> None:
    assert entry_options("rules", entry) == [
        "--model.aggregator",
        *(word.replace("F.", "--model.aggregator.") for word in words),
    ]


@pytest.mark.parametrize("entry", ["", ":b=1", "Krum:", "Krum:b", "Krum:b=", "b=1", "Krum b", "A:=1"])
def test_what_is_no_entry_is_told(entry: str) -> None:
    with pytest.raises(UsageError, match=r"rules must hold CLASS or CLASS:OPTION=VALUE.* in quotes, got "):
        entry_options("rules", entry)


def test_repeated_values_count_once_and_none_is_refused() -> None:
    assert different("seeds", [3, 1, 3]) == [3, 1]
    with pytest.raises(UsageError, match=r"rules must hold at least one, got \[\]"):
        different("rules", [])
