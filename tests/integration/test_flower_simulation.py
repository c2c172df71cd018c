"""``fedsam fit --engine flower``: processes of Ray, the weights of one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # Ray and its processes take most of a minute to start

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FEDSAM = [
    *("--data.source", "CtKidneyPhantom", "--data.source.scale", "0.01", "--data.source.slices", "6"),
    *("--data.source.size", "32", "--data.sites", "[site-A, site-B, site-C]"),
    *("--data.image_size", "32", "--data.stride", "3", "--model.rank", "2", "--model.scores.distances", "false"),
    *("--trainer.max_epochs", "2"),
]
"""The default: FLAP with svd_exact, clients that keep their moments."""
RUN = "import sys; from fedsam.cli import main; main(sys.argv[1:])"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    return tmp_path


def fit(*words: str) -> None:
    """In a process of its own, since Ray leaves threads behind."""
    done = subprocess.run([sys.executable, "-c", RUN, "fit", *QUIET, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def newest_weights(run: str) -> dict[str, torch.Tensor]:
    path = max((Path("runs") / run / "version_0/checkpoints").iterdir(), key=lambda path: path.name)
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(one: str, other: str) -> None:
    mine, theirs = newest_weights(one), newest_weights(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


def test_simulation_equals_in_process() -> None:
    fit(*FEDSAM, "--run.name", "alone")
    fit(*FEDSAM, "--run.name", "together", "--engine", "flower")
    assert_same("fedsam/alone", "fedsam/together")


def test_a_run_goes_on_in_the_other_engine() -> None:
    fit(*FEDSAM, "--run.name", "alone")
    fit(*FEDSAM, "--run.name", "mixed", "--trainer.max_epochs", "1", "--engine", "flower")
    fit("--run.name", "mixed", "--ckpt_path", "last", "--trainer.max_epochs", "2", "--engine", "in_process")
    assert_same("fedsam/alone", "fedsam/mixed")
