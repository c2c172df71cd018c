import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from usssl.augmentation.resampling import (
    Filter,
    blurred,
    box_taps,
    crop_boxes,
    crop_matrices,
    cropped,
    gaussian_taps,
    separable,
)
from usssl.augmentation.two_views import RATIO, kernel_radius

RNG = np.random.default_rng(0)
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (12, 14), dtype=np.uint8)).resize((90, 70), Image.Resampling.BICUBIC)
)
FLOATS = torch.tensor(PICTURE).float()[None, None]


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(0, 0, 70, 90), (5, 9, 40, 31), (30, 50, 11, 13), (0, 70, 70, 20)])
@pytest.mark.parametrize("flipped", [False, True])
def test_crop_and_resize_are_pillows(kind: Filter, box: tuple[int, ...], flipped: bool) -> None:
    top, left, height, width = box
    mode = Image.Resampling.BILINEAR if kind == "bilinear" else Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(PICTURE[top : top + height, left : left + width]).resize((24, 24), mode))
    expected = expected[:, ::-1] if flipped else expected
    at = [torch.tensor([n]) for n in box]
    rows = crop_matrices(at[0], at[2], torch.tensor([False]), 70, 24, kind)
    columns = crop_matrices(at[1], at[3], torch.tensor([flipped]), 90, 24, kind)
    ours = separable(FLOATS, rows, columns).clamp(0, 255)[0, 0].numpy()
    assert np.abs(ours - expected).max() <= 1.01  # Pillow rounds after each direction
    assert rows.sum(-1).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [64, 50])
def test_blur_is_torchvisions(size: int) -> None:
    square = torch.cat([FLOATS[..., :size, :size], FLOATS[..., -size:, -size:]])
    sigmas = torch.tensor([1.3, 0.4])
    ours = blurred(square, gaussian_taps(sigmas, kernel_radius(size)), "reflect")
    for number, sigma in enumerate(sigmas.tolist()):
        width = 2 * kernel_radius(size) + 1
        expected = v2.functional.gaussian_blur(square[number], [width] * 2, [sigma] * 2)
        assert (ours[number] - expected).abs().max() < 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.7, 2.0])
def test_box_blur_is_pillows(sigma: float) -> None:
    square = PICTURE[:64, :64]
    expected = np.asarray(Image.fromarray(square).filter(ImageFilter.GaussianBlur(sigma)), dtype=float)
    taps = box_taps(torch.tensor([sigma, 2.0]))[:1]  # beside a wider one
    ours = blurred(torch.tensor(square).float()[None, None], taps, "replicate")[0, 0].numpy()
    difference = np.abs(ours - expected)
    assert difference.mean() < 1.2  # Pillow rounds in each of its six passes
    assert difference[6:-6, 6:-6].max() < 4
    assert difference.max() < 10  # and repeats its edges anew in each


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_crops_on_the_cpu_are_those_of_the_matrices(kind: Filter) -> None:
    images = FLOATS.to(torch.uint8).expand(3, 1, -1, -1)
    boxes = torch.tensor([[5, 9, 40, 31], [0, 0, 70, 90], [30, 50, 11, 13]])
    flipped = torch.tensor([True, False, True])
    ours = cropped(images, boxes, flipped, 24, kind)
    rows = crop_matrices(boxes[:, 0], boxes[:, 2], torch.zeros(3, dtype=torch.bool), 70, 24, kind)
    columns = crop_matrices(boxes[:, 1], boxes[:, 3], flipped, 90, 24, kind)
    assert (ours - separable(images.float(), rows, columns).clamp(0, 255)).abs().max() <= 1.01


def test_colour_and_grey_take_the_same_way() -> None:
    rows = crop_matrices(torch.tensor([3, 8]), torch.tensor([50, 30]), torch.tensor([False, True]), 70, 20, "bicubic")
    columns = crop_matrices(torch.tensor([0, 9]), torch.tensor([90, 30]), torch.tensor([True, True]), 90, 20, "bicubic")
    grey = FLOATS.expand(2, 1, -1, -1)
    colour = separable(grey.expand(2, 3, -1, -1), rows, columns)
    assert (colour - separable(grey, rows, columns)).abs().max() < 1e-3


def test_boxes_have_torchvisions_distribution() -> None:
    uniforms = torch.from_numpy(RNG.random((4000, 40)))
    ours = crop_boxes(uniforms, 70, 90, (0.08, 1.0), RATIO).double()
    torch.manual_seed(0)
    theirs = torch.tensor(
        [_params() for _ in range(4000)],
        dtype=torch.float64,
    )
    assert (ours[:, 0] + ours[:, 2]).max() <= 70
    assert (ours[:, 1] + ours[:, 3]).max() <= 90
    for column in range(4):
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert abs(ours[:, column].quantile(share) - theirs[:, column].quantile(share)) <= 3


def _params() -> tuple[int, int, int, int]:
    """torchvision's own draw: top, left, height, width."""
    from torchvision.transforms import RandomResizedCrop

    return RandomResizedCrop.get_params(torch.zeros(1, 70, 90), [0.08, 1.0], list(RATIO))
