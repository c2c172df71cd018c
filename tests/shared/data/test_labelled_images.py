import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.data.labelled_images import LabelledImages, read_image
from shared.errors import UsageError


def colours(count: int = 6) -> LabelledImages:
    images = np.arange(count * 4 * 5 * 3, dtype=np.uint8).reshape(count, 4, 5, 3)
    patient = np.array([f"p{i // 2}" for i in range(count)])
    return LabelledImages(images, np.arange(count) % 3, "abc", name="colours", columns={"patient": patient})


def test_single_items_and_batches_agree() -> None:
    data = colours()
    assert len(data) == 6
    for index, (image, label) in zip([4, 0, 4], data.__getitems__([4, 0, 4]), strict=True):
        np.testing.assert_array_equal(image, data[index][0])
        assert label == data[index][1] == index % 3
    assert data.class_counts().tolist() == [2, 2, 2]


def test_subsets_compose_and_share_pixels() -> None:
    data = colours()
    part = data.subset([5, 3, 1]).subset(np.array([2, 0]))
    assert [part[i][0][0, 0, 0] for i in range(2)] == [data[1][0][0, 0, 0], data[5][0][0, 0, 0]]
    assert part.labels.tolist() == [1, 2]
    assert part.columns["patient"].tolist() == ["p0", "p2"]
    assert part._store is data._store
    assert (part.name, part.provenance, part.class_names) == ("colours", "real", ("a", "b", "c"))


def test_a_batch_is_a_copy() -> None:
    data = colours()
    pixels = data.pixels([0])
    assert isinstance(pixels, np.ndarray)
    pixels[:] = 0
    assert data[0][0].any()


def test_files_are_decoded_on_access(tmp_path: Path) -> None:
    grey, colour = np.full((3, 4), 7, np.uint8), np.full((5, 6, 3), 9, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    paths = [tmp_path / "grey.png", tmp_path / "colour.png"]
    data = LabelledImages(paths, np.array([0, 1]), ["x", "y"], name="files", provenance="derived")
    copy = pickle.loads(pickle.dumps(data))  # as loader workers that are not forked receive it
    first, second = copy.pixels([0, 1])
    np.testing.assert_array_equal(first, grey[..., None])
    np.testing.assert_array_equal(second, colour)
    assert not data.in_memory


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_every_8_bit_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / "picture.tif"
    Image.new("RGB", (4, 3), "white").convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, channels)
    assert image.dtype == np.uint8
    assert (image == 255).all()


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)).save(good)
    for name, content in {"text.png": b"no picture", "cut.png": good.read_bytes()[:900], "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"data.source: every image must be readable, but .*{name} is not"):
            read_image(tmp_path / name)
    with pytest.raises(UsageError, match=r"every image must be readable, but .*absent.png is not"):
        read_image(tmp_path / "absent.png")
    Image.fromarray(np.full((3, 3), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UsageError, match=r"must have 8 bits per channel, but .*deep.png has mode I"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (np.zeros((2, 3, 3)), [0, 1], "images must be uint8 .*, set has float64 of shape .2, 3, 3."),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 1], "images must be uint8 of shape .*, set has uint8 of shape .2, 3, 8"),
        (np.zeros((0, 3, 3), np.uint8), [], "set must hold at least one image, got none"),
        ([], [], "set must hold at least one image, got none"),
        (np.zeros((2, 3, 3), np.uint8), [0, 2], r"labels must lie in 0..1 \(2 classes\), set holds 2 in row 1"),
        (np.zeros((2, 3, 3), np.uint8), [0, -1], "labels must lie in 0..1 .*, set holds -1 in row 1"),
        (np.zeros((2, 3, 3), np.uint8), [0.0, 1.0], "labels must be one integer per image, set has float64"),
        (np.zeros((2, 3, 3), np.uint8), [0], r"set must hold one value of labels per image, got shape \(1,\) for 2"),
    ],
)
def test_bad_arrays_are_told_in_one_sentence(images: np.ndarray, labels: list[int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        LabelledImages(images, np.array(labels, dtype=None if labels else int), ["a", "b"], name="set")


def test_columns_must_fit() -> None:
    with pytest.raises(UsageError, match=r"set must hold one value of patient per image, got shape"):
        LabelledImages(
            np.zeros((2, 3, 3), np.uint8), np.zeros(2, int), "a", name="set", columns={"patient": np.ones(3)}
        )
