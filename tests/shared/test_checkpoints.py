"""Files in and out: complete matches, damage, nothing but tensors."""

import os
from pathlib import Path

import pytest
import torch

from shared.checkpoints import (
    AtomicCheckpointIO,
    compare_tensors,
    is_whole_checkpoint,
    load_content,
    load_tensors,
    newest_whole_checkpoint,
    require_same_tensors,
    save_tensors,
    sha256_of,
)
from shared.errors import UsageError


class Surprise:
    """Something that is no tensor."""


def test_the_report_names_what_differs() -> None:
    found = {"a": torch.zeros(2), "b": torch.zeros(3), "x": torch.zeros(1)}
    wanted = {"a": torch.zeros(2), "b": torch.zeros(4), "c": torch.zeros(1)}
    report = compare_tensors(found, wanted)
    assert (report.matched, report.missing, report.unexpected, report.misshapen) == (("a",), ("c",), ("x",), ("b",))
    assert str(report) == "1 tensors match, 1 missing (c), 1 unexpected (x), 1 of another shape (b)"
    with pytest.raises(UsageError, match="the file belongs to another model"):
        require_same_tensors(found, wanted, what="the file")
    assert require_same_tensors(found, found, what="the file").complete


def test_tensors_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    save_tensors(tmp_path / "w.safetensors", tensors)
    loaded = load_tensors(tmp_path / "w.safetensors", "model.init")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert len(sha256_of(tmp_path / "w.safetensors")) == 64


def test_weight_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.init must be an existing file"):
        load_tensors(tmp_path / "none.safetensors", "model.init")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(UsageError, match=r"model\.init is damaged"):
        load_tensors(tmp_path / "bad.safetensors", "model.init")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "object": Surprise()}, tmp_path / "code.ckpt")
    with pytest.raises(UsageError, match="more than tensors"):
        load_tensors(tmp_path / "code.ckpt", "model.init")


def test_checkpoints_are_whole_or_refused(tmp_path: Path) -> None:
    io, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"state_dict": {"a": torch.arange(1000.0)}}, path)
    assert torch.equal(io.load_checkpoint(path)["state_dict"]["a"], torch.arange(1000.0))
    assert is_whole_checkpoint(path)

    content = bytearray(path.read_bytes())
    for damage in (content[:-50], content[: len(content) // 2], b""):
        path.write_bytes(bytes(damage))
        assert not is_whole_checkpoint(path)
        with pytest.raises(UsageError, match="damaged"):
            io.load_checkpoint(path)
    flipped = content.copy()
    flipped[content.index(torch.tensor([500.0]).numpy().tobytes())] ^= 1  # one bit of one weight
    path.write_bytes(bytes(flipped))
    assert not is_whole_checkpoint(path)
    with pytest.raises(UsageError, match="existing file"):
        io.load_checkpoint(tmp_path / "none.ckpt")
    torch.save({"object": Surprise()}, path)
    with pytest.raises(UsageError, match="more than tensors"):
        io.load_checkpoint(path)


def test_other_files_are_told_to_be_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content, told in (
        (b"hello\n", "is damaged or no weight file: .*a.pt$"),
        (b"xx" * 50, "is no weight file, or holds"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"--weights {told}"):
            load_content(path, "--weights")


def test_weights_are_named_tensors(tmp_path: Path) -> None:
    for content in ([torch.ones(2)], {"state_dict": {"a": 1}}, {"model": [torch.ones(2)]}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UsageError, match=r"--weights must hold named tensors, got .*a.pt"):
            load_tensors(tmp_path / "a.pt", "--weights")


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    assert newest_whole_checkpoint(tmp_path) is None
    for age, name in enumerate(("v0/old.ckpt", "v1/whole.ckpt", "v2/torn.ckpt")):
        io.save_checkpoint({"a": torch.zeros(3)}, tmp_path / name)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    torn = tmp_path / "v2" / "torn.ckpt"
    torn.write_bytes(torn.read_bytes()[:100])
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "v1" / "whole.ckpt"
