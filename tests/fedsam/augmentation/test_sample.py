import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from fedsam.augmentation import SampleAugmentation, reference_choices
from fedsam.augmentation.policy import OPERATIONS, Policy
from fedsam.augmentation.sample import (
    affine_coefficients,
    drawn_box,
    erased,
    gamma_corrected,
    operated,
    rot_flip,
    rotated,
    to_bytes,
)
from shared.errors import UsageError

NOTHING = Policy(rot_flip=0, rotate=0, gamma=0, erase=0, operations=0)


def window(seed: int = 0, height: int = 20, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((5, height, width)).astype(np.float32), rng.integers(0, 3, (5, height, width)).astype(np.uint8)


def test_without_steps_nothing_changes() -> None:
    image, label = window()
    out, out_label = SampleAugmentation(20, NOTHING)(image, label, np.random.default_rng(0))
    assert np.array_equal(out, image)
    assert np.array_equal(out_label, label)


def test_shapes_types_and_labels() -> None:
    image, label = window(1, 24, 18)
    for seed in range(30):
        out, out_label = SampleAugmentation(16)(image, label, np.random.default_rng(seed))
        assert (out.shape, out.dtype) == ((5, 16, 16), np.float32)
        assert (out_label.shape, out_label.dtype) == ((5, 16, 16), np.uint8)
        assert set(np.unique(out_label)) <= {0, 1, 2}
        again = SampleAugmentation(16)(image, label, np.random.default_rng(seed))
        assert np.array_equal(out, again[0])
        assert np.array_equal(out_label, again[1])


def test_slices_share_the_draws() -> None:
    image, label = window(2)
    image[:], label[:] = image[0], label[0]
    for seed in range(20):
        out, out_label = SampleAugmentation(20)(image, label, np.random.default_rng(seed))
        assert np.array_equal(out, np.broadcast_to(out[0], out.shape))
        assert np.array_equal(out_label, np.broadcast_to(out_label[0], out.shape))


def test_turns_flips_and_rotation() -> None:
    image, label = window(3)
    for k in range(4):
        for axis in range(2):
            out, out_label = rot_flip(image, label, k, axis)
            assert np.array_equal(out[2], np.flip(np.rot90(image[2], k), axis))
            assert np.array_equal(out_label[4], np.flip(np.rot90(label[4], k), axis))
    out, out_label = rotated(image, label, 0)
    assert np.array_equal(out, image)
    out, out_label = rotated(image, label, 14)
    assert set(np.unique(out_label)) <= {0, 1, 2}
    assert out[0, 0, 0] == 0  # from outside


def test_gamma_goes_through_a_table_of_bytes() -> None:
    image, _ = window(4)
    expected = np.floor((np.floor(image * 255) / 255) ** 2.2 * 255) / 255
    np.testing.assert_allclose(gamma_corrected(image, 2.2), expected, atol=1e-6)


def test_erasing() -> None:
    image, label = window(5, 40, 60)
    label[:] = 1
    for seed in range(50):
        box = drawn_box(40, 60, np.random.default_rng(seed))
        assert box is not None
        top, left, h, w = box
        assert top + h <= 40
        assert left + w <= 60
        assert 0.02 * 0.8 < h * w / 2400 < 0.05 * 1.2  # sides are whole numbers
        noise = np.random.default_rng(seed).random((h, w))
        out, out_label = erased(image, label, box, noise)
        assert (out_label == 0).sum() == 5 * h * w
        np.testing.assert_allclose(out[3, top : top + h, left : left + w], noise, atol=1e-7)
        assert ((out != image).sum(axis=(1, 2)) <= h * w).all()
    assert label.min() == 1


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operations_on_bytes(name: str) -> None:
    image, label = window(6, 16, 24)
    value = sum(OPERATIONS[name]) / 2 * 0.9 + 0.07
    images, labels = [Image.fromarray(x) for x in to_bytes(image)], [Image.fromarray(x) for x in label]
    got, got_labels = operated(images, labels, name, value)
    plain = {
        "posterize": lambda x: ImageOps.posterize(x, int(value)),
        "contrast": lambda x: ImageEnhance.Contrast(x).enhance(value),
        "brightness": lambda x: ImageEnhance.Brightness(x).enhance(value),
        "sharpness": lambda x: ImageEnhance.Sharpness(x).enhance(value),
        "identity": lambda x: x,
    }
    if name in plain:
        assert np.array_equal(got[1], plain[name](images[1]))
        assert np.array_equal(got_labels[1], labels[1])
        return
    a, b, c, d, e, f = affine_coefficients(name, value, 24, 16)
    expected = np.zeros((16, 24), np.uint8)
    for y in range(16):
        for x in range(24):
            u, v = a * (x + 0.5) + b * (y + 0.5) + c, d * (x + 0.5) + e * (y + 0.5) + f
            if 0 <= u < 24 and 0 <= v < 16:
                expected[y, x] = label[1][int(v), int(u)]
    assert np.array_equal(got_labels[1], expected)
    if name.startswith("shear"):  # the centre stays
        assert a * 12 + b * 8 + c == pytest.approx(12)
        assert d * 12 + e * 8 + f == pytest.approx(8)


def test_the_reference_generator_repeats_itself_in_every_worker() -> None:
    image, label = window(7)
    policy = Policy(rot_flip=0, rotate=0, gamma=0)
    augment = SampleAugmentation(20, policy)
    workers = [reference_choices(), reference_choices()]
    first, second = (augment(image, label, np.random.default_rng(seed), workers[seed]) for seed in range(2))
    assert np.array_equal(first[0], second[0])
    own = augment(image, label, np.random.default_rng(1))
    assert not np.array_equal(own[0], first[0])


def test_wrong_policies_are_refused() -> None:
    with pytest.raises(UsageError, match=r"augmentation.gamma must lie in \[0, 1\], got 1.5"):
        Policy(gamma=1.5)
    with pytest.raises(UsageError, match=r"augmentation.operations must lie in 0..10, got 11"):
        Policy(operations=11)
    with pytest.raises(UsageError, match=r"augmentation.size must be at least 1, got 0"):
        SampleAugmentation(0)
