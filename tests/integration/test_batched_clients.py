"""Clients trained together, over two gloo processes: the weights of one process, and of clients trained in turn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedseca.cli import main


def weights(run: Path) -> torch.Tensor:
    path = max((run / "version_0" / "checkpoints").iterdir(), key=lambda path: path.name)
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith("local.")])


@pytest.mark.slow
def test_two_processes_and_one_and_clients_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five clients of unequal size, two of them with flipped labels: three train in one process, two in the other."""
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--model.network.width", "2", "--data.fraction", "0.1", "--data.batch_size", "16"]
    words += ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    words += ["--model.attack", "LabelFlip", "--model.aggregator", "FedAvg"]
    for mode in ("always", "never"):
        main([*words, "--run.name", mode, "--model.client.batched", mode])
    main([*words, "--run.name", "start", "--model.client.optimizer.lr", "0"])
    command = [str(Path(sys.executable).with_name("fedseca")), *words, "--run.name", "two"]
    done = subprocess.run(
        [*command, "--model.client.batched", "always", "--trainer.strategy", "ddp", "--trainer.devices", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs" / "fedseca"
    start, one, two, in_turn = (weights(runs / name) for name in ("start", "always", "two", "never"))
    moved = (in_turn - start).norm()
    assert (one - two).norm() <= 1e-5 * moved
    assert (one - in_turn).norm() <= 1e-5 * moved
