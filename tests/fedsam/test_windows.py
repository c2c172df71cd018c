import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from fedsam.windows import anti_transpose, min_max, resize_images, resize_labels, window_slices


def test_windows_repeat_the_edge_slices() -> None:
    assert [window_slices(z, 6).tolist() for z in range(6)] == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 5],
        [3, 4, 5, 5, 5],
    ]


@given(st.integers(5, 60))
def test_windows_are_those_of_a_volume_padded_by_two_slices_at_each_end(depth: int) -> None:
    padded = np.pad(np.arange(depth), 2, mode="edge")
    assert all(window_slices(z, depth).tolist() == padded[z : z + 5].tolist() for z in range(depth))


def test_min_max_by_its_formula() -> None:
    stack = np.random.default_rng(0).normal(40, 300, (5, 8, 9)).astype(np.float32)
    expected = (stack - stack.min()) / (stack.max() - stack.min() + 1e-8)
    np.testing.assert_allclose(min_max(stack), expected, rtol=1e-6)
    assert (min_max(stack).min(), min_max(stack).max()) == (0, 1)
    shifted = min_max(3 * stack + 7)  # so that mean and standard deviation before it cancel
    np.testing.assert_allclose(shifted, expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1000.0, 3e38])
def test_a_constant_stack_becomes_zeros(value: float) -> None:
    assert not min_max(np.full((5, 4, 4), value, np.float32)).any()


def test_anti_transposition_is_a_quarter_turn_and_a_mirror() -> None:
    slices = np.random.default_rng(0).random((3, 4, 6))
    turned = np.stack([np.fliplr(np.rot90(s)) for s in slices])
    np.testing.assert_array_equal(anti_transpose(slices), turned)
    assert anti_transpose(slices)[0, 5, 1] == slices[0, 4 - 1 - 1, 6 - 1 - 5]
    np.testing.assert_array_equal(anti_transpose(anti_transpose(slices)), slices)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(12, 9, 32), (35, 51, 48), (90, 108, 96), (40, 64, 16), (7, 16, 16)]
)
def test_resizing_is_scipys_zoom(height: int, width: int, size: int) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((5, height, width), np.float32), rng.integers(0, 3, (5, height, width), np.uint8)
    zoom = (1, size / height, size / width)
    for order, name in ((3, "spline"), (1, "linear")):
        resized = resize_images(torch.from_numpy(images), size, name)  # type: ignore[arg-type]
        np.testing.assert_allclose(resized, ndimage.zoom(images, zoom, order=order), atol=3e-6)
    np.testing.assert_array_equal(resize_labels(torch.from_numpy(labels), size), ndimage.zoom(labels, zoom, order=0))


def test_the_spline_overshoots_and_linear_does_not() -> None:
    step = torch.zeros(1, 20, 20)
    step[..., 10:] = 1
    spline, linear = resize_images(step, 48), resize_images(step, 48, "linear")
    assert spline.min() < -0.02
    assert spline.max() > 1.02
    assert (linear.min(), linear.max()) == (0, 1)


def test_the_stored_size_is_left_alone() -> None:
    images = torch.rand(2, 5, 16, 16)
    assert torch.equal(resize_images(images, 16), images)
    assert torch.equal(resize_labels((images * 3).byte(), 16), (images * 3).byte())
    assert resize_images(images.double(), (20, 24)).shape == (2, 5, 20, 24)
