import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.data.idx import Idx, read_idx
from shared.errors import UsageError

WriteIdx = Callable[..., Path]


@pytest.mark.parametrize("compressed", [True, False])
def test_the_four_files_are_read(write_idx: WriteIdx, compressed: bool) -> None:
    sets = Idx(write_idx(compressed=compressed), name="tiny").load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test), sets.validation) == (20, 10, None)
    assert sets.train.class_names == ("0", "1", "2", "3", "4")
    assert sets.train.labels.tolist() == [i % 5 for i in range(20)]
    expected = np.random.default_rng(0).integers(256, size=(20, 4, 5), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(sets.train.pixels(np.arange(20)))[..., 0], expected)
    assert (sets.train.name, sets.test.name) == ("tiny train", "tiny test")


def test_absent_folder_and_file_are_named(write_idx: WriteIdx, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.root must be an existing folder, got .*nowhere"):
        Idx(tmp_path / "nowhere").load()
    (write_idx() / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match=r"that holds t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, .* neither"):
        Idx(tmp_path).load()


def test_damaged_files_are_named(write_idx: WriteIdx) -> None:
    root = write_idx(compressed=False)
    path = root / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(UsageError, match=r"ubyte must hold the 20 x 4 x 5 bytes of its header, got 397"):
        read_idx(path, ndim=3)
    path.write_bytes(content[:3] + b"\x01" + content[4:])
    with pytest.raises(UsageError, match=r"must begin with the idx header 0x00000803, got 0x00000801"):
        read_idx(path, ndim=3)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"must begin with the idx header 0x00000803, got 0x$"):
        read_idx(path, ndim=3)
    for content in (b"plain bytes", gzip.compress(b"x" * 100)[:-9]):
        packed = root / "cut.gz"
        packed.write_bytes(content)
        with pytest.raises(UsageError, match=r"cut.gz must be a readable idx file"):
            read_idx(packed, ndim=3)


def test_counts_and_labels_are_checked(write_idx: WriteIdx) -> None:
    root = write_idx(compressed=False)
    labels = root / "train-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:4] + (19).to_bytes(4, "big") + good[8:-1])
    with pytest.raises(UsageError, match=r"train files must hold one label per image, .* has 20 images and 19 labels"):
        Idx(root).load()
    labels.write_bytes(good.replace(b"\x03", b"\x09"))
    with pytest.raises(UsageError, match=r"every class must have an image .*train has none of class 3"):
        Idx(root).load()
    with pytest.raises(UsageError, match=r"labels must lie in 0..4 \(5 classes\), .* train holds 9 in row 3"):
        Idx(root, class_names=list("abcde")).load()
