"""Shard files: exact to the precision asked for, whole or refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from finelip.shards import (
    is_whole_shard,
    open_shard,
    packed_thumbnails,
    quantised,
    restored,
    shard_path,
    write_shard,
)
from shared.errors import RunError


def test_int8_is_within_half_a_step_of_each_vector_s_own_scale() -> None:
    vectors = (
        torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 50.0])[:, None]
    )
    vectors[0, 0] = 0
    stored = quantised(vectors, "int8")
    assert stored[""].dtype == torch.int8
    assert stored["_scale"].shape == (4, 3)
    again = restored(stored[""].numpy(), stored["_scale"].numpy())
    assert ((again - vectors).abs() <= 0.5001 * vectors.abs().amax(-1, keepdim=True) / 127 + 1e-12).all()
    half = quantised(vectors, "fp16")
    assert torch.equal(restored(half[""].numpy(), None), vectors.half().float())


def test_memory_maps_hold_what_was_written(tmp_path: Path) -> None:
    tensors = {
        "vectors": torch.randn(3, 4).half(),
        "tokens": torch.randint(-127, 127, (3, 2, 4), dtype=torch.int8),
        "tokens_scale": torch.rand(3, 2),
        "mask": torch.tensor([[True, False], [True, True], [False, True]]),
        "rows": torch.tensor([4, 5, 7]),
        "thumbnails": torch.zeros(0, dtype=torch.uint8),
    }
    path = shard_path(tmp_path, "texts", 7)
    assert path.name == "texts-00007.safetensors"
    write_shard(path, tensors)
    found = open_shard(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy()), name
    assert isinstance(found["tokens"], np.memmap)
    assert torch.equal(load_file(path)["rows"], tensors["rows"])  # any reader of safetensors


@pytest.mark.parametrize("damage", ["cut", "longer", "text", "empty", "absent"])
def test_a_damaged_shard_is_no_shard(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "images-00000.safetensors"
    write_shard(path, {"rows": torch.arange(9)})
    content = path.read_bytes()
    changed = {"cut": content[:-1], "longer": content + b"x", "text": b"not a shard at all", "empty": b""}
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    assert not is_whole_shard(path)
    with pytest.raises(RunError, match="is no whole shard of finelip encode"):
        open_shard(path)


def test_thumbnails_are_small_jpegs() -> None:
    pictures = [Image.new("RGB", size, colour) for size, colour in (((400, 100), "red"), ((30, 60), "blue"))]
    packed = packed_thumbnails(pictures, 160)
    ends = packed["thumbnail_ends"].tolist()
    content = packed["thumbnails"].numpy().tobytes()
    assert ends[-1] == len(content)
    sizes = [Image.open(io.BytesIO(content[start:end])).size for start, end in zip([0, ends[0]], ends, strict=True)]
    assert sizes == [(160, 40), (30, 60)]
    assert packed_thumbnails(pictures, 0) == {}
