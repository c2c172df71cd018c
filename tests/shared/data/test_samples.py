import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from shared.data.samples import embedded
from shared.errors import UsageError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "package_with_samples"
    (folder / "samples").mkdir(parents=True)
    (folder / "__init__.py").touch()
    np.savez(folder / "samples/a.npz", x=np.arange(3))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop(folder.name, None)


def test_arrays_are_read_and_checked(package: Path) -> None:
    checksum = sha256((package / "samples/a.npz").read_bytes()).hexdigest()
    assert embedded(package.name, "samples/a.npz", checksum)["x"].tolist() == [0, 1, 2]
    assert list(embedded(package.name, "samples/a.npz")) == ["x"]


def test_absent_and_changed_files_are_told_in_one_sentence(package: Path) -> None:
    with pytest.raises(UsageError, match=r"package package_with_samples must hold samples/b.npz, but it is missing"):
        embedded(package.name, "samples/b.npz")
    with pytest.raises(UsageError, match=r"samples/a.npz must have SHA-256 00, got [0-9a-f]{64}: install"):
        embedded(package.name, "samples/a.npz", "00")


def test_pickles_are_never_read(package: Path) -> None:
    np.savez(package / "samples/evil.npz", x=np.array([{}]))
    with pytest.raises(ValueError, match=r"allow_pickle=False"):
        embedded(package.name, "samples/evil.npz")
