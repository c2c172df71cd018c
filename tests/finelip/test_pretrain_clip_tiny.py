"""The script that pretrains ``clip_tiny``: its batches, and that an interrupted run goes on to the same bits."""

import argparse
import csv
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from finelip.clip_tiny import read_tiny
from finelip.late_detail.scenes import HELD_BACK

TOOL = Path(__file__).parents[2] / "tools/pretrain_clip_tiny.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("pretrain_clip_tiny", TOOL)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def options(work: Path, **changes: Any) -> argparse.Namespace:
    plain = {"out": work / "w.safetensors", "steps": 4, "minutes": None, "seed": 0, "batch": 6, "lr": 1e-3}
    more = {"readers": 0.3, "every": 2, "held_out": 4, "work": work}
    return argparse.Namespace(**(plain | more | changes))


def test_batches_depend_on_seed_and_step_alone(tool: ModuleType) -> None:
    vocabulary = tool.Vocabulary()
    one, two, other = (tool.draw_batch(0, step, 8, 0.5, vocabulary) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (8, 3, 96, 96)
    assert one.lengths.max() <= 77
    named = one.told >= 0
    assert (one.told == one.shown)[named].all()
    assert named.any((1, 2)).all()
    shape, colour = one.shown[..., 0], one.shown[..., 1]
    held = torch.tensor(HELD_BACK)
    assert not held[10 * shape + colour][shape >= 0].any()


def test_twins_differ_in_one_attribute(tool: ModuleType) -> None:
    sets = tool.held_out(0, 10, tool.Vocabulary())
    for batch in sets.values():
        one, two = batch.shown[::2], batch.shown[1::2]
        assert (one != two).any((1, 2)).all()
        assert ((one >= 0).sum((1, 2)) == (two >= 0).sum((1, 2))).all()


def test_an_interrupted_run_goes_on_to_the_same_bits(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    tool.train(options(whole))
    save = tool._write

    def stop_after_the_first(path: Path, content: dict[str, Any]) -> None:
        save(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "_write", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        tool.train(options(halves))
    monkeypatch.setattr(tool, "_write", save)
    tool.train(options(halves))
    assert "goes on after step 2" in capsys.readouterr().out
    one, two = read_tiny(whole / "w.safetensors"), read_tiny(halves / "w.safetensors")
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    with (whole / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    with pytest.raises(SystemExit, match="belongs to a run with"):
        tool.train(options(halves, lr=2e-3))
