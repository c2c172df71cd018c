import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WriteIdx = Callable[..., Path]


@pytest.fixture
def write_idx(tmp_path: Path) -> WriteIdx:
    """Writes the four files of a tiny MNIST-like set in the public layout and returns their folder."""

    def write(train: int = 20, test: int = 10, classes: int = 5, compressed: bool = True) -> Path:
        rng = np.random.default_rng(0)
        for part, count in (("train", train), ("t10k", test)):
            for kind, array in (
                ("images-idx3", rng.integers(256, size=(count, 4, 5), dtype=np.uint8)),
                ("labels-idx1", (np.arange(count) % classes).astype(np.uint8)),
            ):
                content = struct.pack(f">I{array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()
                path = tmp_path / f"{part}-{kind}-ubyte"
                if compressed:
                    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
                else:
                    path.write_bytes(content)
        return tmp_path

    return write
