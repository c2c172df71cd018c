"""What the benchmarks share: which clock decides, and what a record from a GPU holds."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("paired")


@pytest.mark.parametrize(("device", "speedup"), [("cpu", 2.0), ("cuda", 5.0)])
def test_cpu_seconds_decide_on_a_cpu_and_the_clock_on_a_gpu(
    paired: ModuleType, monkeypatch: pytest.MonkeyPatch, device: str, speedup: float
) -> None:
    def ours() -> None: ...

    def peer() -> None: ...

    def seconds(function: Callable[[], object], calls: int = 1) -> tuple[float, float]:
        return {ours: (0.5, 1.0), peer: (1.0, 5.0)}[function]

    monkeypatch.setattr(paired, "cpu_and_wall", seconds)
    found = paired.compare(ours, peer, 7, budget_s=100.0, device=device)
    assert (found.pairs, found.speedup, found.low, found.high) == (7, speedup, speedup, speedup)
    assert (found.ours_cpu_s, found.peer_cpu_s, found.ours_wall_s, found.peer_wall_s) == (0.5, 1.0, 1.0, 5.0)


def test_a_record_from_a_gpu_names_it_and_has_no_limits(
    paired: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "machine", lambda: {"cpu": "a CPU"})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    row = {"rule": "Krum", "speedup": 2.0, "limit": 1.0, "holds": True, "promised": 1, "kept": True}
    paired.write(tmp_path / "cpu.json", "rules", [row])
    paired.write(tmp_path / "gpu.json", "rules", [row], "cuda")
    cpu, gpu = (json.loads((tmp_path / name).read_text()) for name in ("cpu.json", "gpu.json"))
    assert cpu == {"about": "rules", "machine": {"cpu": "a CPU"}, "results": [row]}
    assert gpu["machine"] == {"cpu": "a CPU", "gpu": "the GPU cuda", "cuda": torch.version.cuda}
    assert gpu["results"] == [{"rule": "Krum", "speedup": 2.0}]


def test_a_device_that_is_not_here_is_refused(paired: ModuleType) -> None:
    assert paired.device("cpu") == "cpu"
    with pytest.raises(argparse.ArgumentTypeError, match=r"--device must be .* a GPU that is here, got cuda:99"):
        paired.device("cuda:99")


def test_peers_on_a_gpu_need_no_library_beside_torch(paired: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregators = importlib.import_module("aggregators")
    every = aggregators.all_cases(100, "cpu")
    monkeypatch.setattr(aggregators, "all_cases", lambda d, where: every)
    updates = aggregators.updates(100)

    monkeypatch.setitem(sys.modules, "byzfl", None)  # an import of it fails
    kept = aggregators.cases(100, "cuda")
    assert {case.rule for case in every} - {case.rule for case in kept} == {"FedAvg", "TIES"}
    assert len(aggregators.cases(100, "cpu")) == len(every)
    for case in kept:
        assert torch.isfinite(case.theirs(updates)).all(), case.peer
