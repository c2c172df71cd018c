from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.data.image_folder import ImageFolder
from shared.errors import UsageError


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(folder / name)


def test_train_test_and_validation_folders(tmp_path: Path) -> None:
    put(tmp_path / "train/dog", "b.png", "a.PNG")
    put(tmp_path / "train/cat", "1.png")
    put(tmp_path / "train/cat/deeper", "2.jpg")
    put(tmp_path / "Test/cat", "3.png")
    put(tmp_path / "val/dog", "4.png")
    (tmp_path / "train/cat/notes.txt").write_text("no picture")
    (tmp_path / "train/.hidden").mkdir()
    sets = ImageFolder(tmp_path, name="pets").load()
    assert sets.test is not None
    assert sets.validation is not None
    assert sets.train.class_names == sets.test.class_names == ("cat", "dog")
    assert sets.train.labels.tolist() == [0, 0, 1, 1]
    assert sets.validation.labels.tolist() == [1]
    assert sets.train[2][0].max() == 1  # dog/a.PNG, written second
    assert sets.train.name == "pets train"


def test_one_folder_to_be_split(tmp_path: Path) -> None:
    put(tmp_path / "Forest", "Forest_1.jpg")
    put(tmp_path / "River", "River_1.jpg", "River_2.jpg")
    sets = ImageFolder(tmp_path).load()
    assert sets.test is None
    assert sets.train.class_counts().tolist() == [1, 2]


def test_bad_folders_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.root must be an existing folder, got .*absent"):
        ImageFolder(tmp_path / "absent").load()
    with pytest.raises(UsageError, match=r"must hold one folder of images per class, .* has no folder"):
        ImageFolder(tmp_path).load()
    put(tmp_path / "test/cat", "1.png")
    with pytest.raises(UsageError, match=r"must hold a folder train beside test, .* has none"):
        ImageFolder(tmp_path).load()
    (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"every class folder must hold an image, .*cat has none"):
        ImageFolder(tmp_path).load()
    put(tmp_path / "train/cat", "1.png")
    put(tmp_path / "test/cow", "1.png")
    with pytest.raises(UsageError, match=r"every class must occur in training, .*cow is none of cat"):
        ImageFolder(tmp_path).load()
