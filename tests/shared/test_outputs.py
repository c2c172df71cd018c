"""Places to write."""

from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.outputs import output_file, output_folder


def test_folders_are_made(tmp_path: Path) -> None:
    assert output_file(tmp_path / "a/b.npz", ".npz").parent.is_dir()
    assert output_folder(str(tmp_path / "c/d")).is_dir()


def test_places_that_cannot_be_written_are_told_by_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out must end in .npz, got a.csv"):
        output_file("a.csv", ".npz")
    with pytest.raises(UsageError, match="--out must be a file to write, got the folder"):
        output_file(tmp_path)
    with pytest.raises(UsageError, match=r"--out must be in a folder that can be written, got .*file \(File exists\)"):
        output_folder(tmp_path / "file")
    with pytest.raises(UsageError, match=r"--to must be in a folder .*file/x \(Not a directory\)"):
        output_file(tmp_path / "file/x/y.csv", option="--to")
