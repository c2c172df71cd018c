"""Which run a command means."""

import os
from pathlib import Path

import pytest
import torch

from shared.errors import UsageError
from usssl.runs import kind_of, newest_checkpoint, newest_run, require_kind

RECORDS = {"pretrain": {"backbone": "resnet18", "guard": {}}, "finetune": {"backbone": "resnet18", "classes": ["a"]}}


def write_run(root: Path, kind: str, name: str, version: int, age: int, *files: str) -> Path:
    run = root / "usssl" / name / f"version_{version}"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(f"# usssl {kind} --run.name {name}\nmodel: null\n")
    for file in files:
        path = run / "checkpoints" / file
        torch.save({"usssl": RECORDS[kind]}, path)
        os.utime(path, (10_000 - age, 10_000 - age))
    return run


def test_newest_run_of_its_kind_under_any_name(tmp_path: Path) -> None:
    assert newest_run(tmp_path, "pretrain") is None
    write_run(tmp_path, "pretrain", "pretrain", 0, 30, "epoch=0001.ckpt")
    later = write_run(tmp_path, "pretrain", "simclr", 0, 20, "epoch=0001.ckpt")
    tuned = write_run(tmp_path, "finetune", "finetune", 0, 10, "epoch=0001.ckpt")
    write_run(tmp_path, "pretrain", "unfinished", 0, 0)
    assert newest_run(tmp_path, "pretrain") == later
    assert newest_run(tmp_path, "finetune") == tuned
    assert newest_checkpoint(tmp_path, "pretrain") == later / "checkpoints/epoch=0001.ckpt"


def test_the_best_epoch_comes_before_the_last(tmp_path: Path) -> None:
    run = write_run(tmp_path, "finetune", "finetune", 0, 10, "best.ckpt", "epoch=0009.ckpt")
    assert newest_checkpoint(tmp_path, "finetune", "finetune") == run / "checkpoints/best.ckpt"
    (run / "checkpoints/best.ckpt").write_bytes(b"cut short")
    assert newest_checkpoint(tmp_path, "finetune", "finetune") == run / "checkpoints/epoch=0009.ckpt"


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path, "pretrain", "pretrain", 0, 0, "epoch=0001.ckpt")
    file = run / "checkpoints/epoch=0001.ckpt"
    assert kind_of(file, "--ckpt_path") == "pretrain"
    require_kind(file, "pretrain")
    with pytest.raises(UsageError, match=r"got one of usssl pretrain.*give it as --model.init"):
        require_kind(file, "finetune")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UsageError, match="got another one"):
        require_kind(tmp_path / "other.ckpt", "pretrain")
