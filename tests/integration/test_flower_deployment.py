"""A real deployment on this machine: a SuperLink and SuperNodes as processes, with TLS and node keys."""

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from benchmarks.local_federation import LocalFederation

pytestmark = pytest.mark.slow  # every message starts a process that imports the libraries anew

REPOSITORY = Path(__file__).parents[2]
CLIENTS = 3
ROUNDS = 5
FEDSAM = [
    *("--data.source", "CtKidneyPhantom", "--data.source.scale", "0.01", "--data.source.slices", "6"),
    *("--data.source.size", "32", "--data.sites", "[site-A,site-B,site-C]"),
    *("--data.image_size", "32", "--data.stride", "3", "--model.rank", "2", "--model.scores.distances", "false"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
]
"""The default, FLAP with svd_exact and clients that keep their moments, on small phantoms."""


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """The module that starts a federation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        yield pytest.importorskip("local_federation")


class Training:
    """``flwr run`` of fedsam, as the guide has it."""

    def __init__(self, federation: "LocalFederation", name: str, *words: str) -> None:
        self.folder = federation.folder / "runs/fedsam" / name / "version_0"
        runs = ["--run.root", str(federation.folder / "runs"), "--run.name", name]
        config = f'words="{" ".join([*FEDSAM, *runs, *words])}"'
        self.run = federation.run(REPOSITORY / "packages/fedsam", config)

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("round=*.ckpt"))

    def rounds(self) -> list[dict[str, str]]:
        with (self.folder / "rounds.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.checkpoints()[-1], weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def federation(local: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator["LocalFederation"]:
    with local.LocalFederation(tmp_path_factory.mktemp("federation") / "hospitals", CLIENTS) as federation:
        yield federation


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after the rounds of one process."""
    folder = tmp_path_factory.mktemp("alone")
    words = ["fit", *FEDSAM, "--trainer.max_epochs", str(ROUNDS), "--run.root", str(folder), "--run.name", "alone"]
    program = "import sys; from fedsam.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    newest = max((folder / "fedsam/alone/version_0/checkpoints").glob("round=*.ckpt"))
    return torch.load(newest, weights_only=True)["state_dict"]


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


def test_strangers_are_refused(local: Any, federation: "LocalFederation") -> None:
    """Without a key, with a key that nobody registered, trusting another authority, and without TLS."""
    local.certificate_authority(federation.folder, "other")
    local.node_key(federation.folder / "stranger.key")
    once = ["--max-retries", "1"]
    trust = ["--root-certificates", "ca.crt"]
    federation.join("no key", *trust, *once)
    federation.join("unknown key", *trust, "--auth-supernode-private-key", "stranger.key", *once)
    key = ["--auth-supernode-private-key", "node0.key"]
    federation.join("wrong certificate", "--root-certificates", "other.crt", *key, *once)
    federation.join("no TLS", "--insecure", *once)
    for name in ("no key", "unknown key", "wrong certificate", "no TLS"):
        local.wait_until(lambda name=name: federation.processes[name].poll() is not None, name)
        assert federation.processes[name].returncode != 0, name
        assert "Failed to initialize the connection to the SuperLink" in federation.log(name)
    assert "[code: 2001] SuperNode authentication is enabled" in federation.log("no key")
    assert "[code: 2004]" in federation.log("unknown key")
    assert federation.said("link", "Activated node_id") == CLIENTS


def test_equal_to_one_process_though_the_server_is_killed(
    local: Any, federation: "LocalFederation", in_process: dict[str, torch.Tensor]
) -> None:
    """The server's process is killed after two rounds; the same command with ``--ckpt_path last`` ends with the weights
    of an uninterrupted run in one process."""
    training = Training(federation, "killed", "--trainer.max_epochs", str(ROUNDS))
    local.wait_until(lambda: any(path.name >= "round=0001" for path in training.checkpoints()), "two rounds")
    (server,) = local.processes_of(federation.processes["link"].pid, "flwr-serverapp")
    os.kill(server.pid, signal.SIGKILL)
    local.wait_until(lambda: training.run.status().startswith("finished"), "the end of the killed run")
    assert len(training.rounds()) < ROUNDS

    training = Training(federation, "killed", "--trainer.max_epochs", str(ROUNDS), "--ckpt_path", "last")
    assert training.run.finish() == "finished:completed"
    assert [row["failures"] for row in training.rounds()] == [""] * ROUNDS
    assert [row["participants"] for row in training.rounds()] == ["0 1 2"] * ROUNDS
    assert_same(training.weights(), in_process)


def test_a_node_that_is_killed_is_left_out_and_may_come_back(local: Any, federation: "LocalFederation") -> None:
    training = Training(federation, "node", "--trainer.max_epochs", "6", "--flower.timeout", "60")
    local.wait_until(lambda: len(training.checkpoints()) > 0, "a round")
    node = federation.processes["node2"]
    family = local.descendants(node.pid)
    node.kill()
    node.wait()
    for child in family:
        child.kill()
    local.wait_until(lambda: len(training.rounds()) > 1, "the round without the node")
    federation.start_node(2)
    assert training.run.finish() == "finished:completed"
    failures = [row["failures"] for row in training.rounds()]
    assert failures[0] == ""
    assert re.match(r"2: no answer", failures[1]), failures
    assert failures[-1] == "", failures  # it goes on from its own file of round 0, in a folder that served another run
