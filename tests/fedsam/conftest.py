"""Small volumes on disk, in the public layouts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

WriteScan = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def write_scan() -> WriteScan:
    """Writes one NIfTI file and returns its path."""

    def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.9, 2.5, 1]) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def write_pair(write_scan: WriteScan) -> Callable[..., tuple[Path, Path]]:
    """Writes a scan with a bright block and the mask of that block."""

    def write(image: Path, label: Path, shape: tuple[int, ...] = (12, 10, 7), seed: int = 0, **changes: Any) -> Any:
        rng = np.random.default_rng(seed)
        values = rng.normal(100, 5, shape).astype(changes.get("dtype", np.float32))
        mask = np.zeros(shape, changes.get("label_dtype", np.uint8))
        mask[3:8, 2:6, 1:-1] = changes.get("value", 1)
        values[mask > 0] += 50
        affine = changes.get("affine")
        return write_scan(image, values, affine), write_scan(label, mask, affine)

    return write
