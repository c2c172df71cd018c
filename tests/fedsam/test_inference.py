from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn

from fedsam.inference import Scaling, VolumePredictor, resize
from shared.errors import UsageError

Net = Callable[[Tensor, int], Tensor]


def network(classes: int = 3) -> Net:
    """Convolutions on each slice alone."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, classes, 3, padding=1)).eval()
    for parameter in layers.parameters():
        parameter.data.mul_(4)
    return lambda images, slices: layers(images)


def mixing(images: Tensor, slices: int) -> Tensor:
    """Every slice also sees the first one of its window."""
    logits = network()(images, slices)
    windows = logits.view(-1, slices, *logits.shape[1:])
    return (windows + windows[:, :1]).flatten(0, 1)


def volume(depth: int = 7, height: int = 18, width: int = 14) -> Tensor:
    return 100 * torch.randn(depth, height, width, generator=torch.Generator().manual_seed(1))


def by_hand(forward: Net, image: Tensor, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The reference's steps, a window at a time, with scipy."""
    depth, height, width = image.shape
    padded = np.pad(image.numpy(), ((2, 2), (0, 0), (0, 0)), mode="edge")
    sums, counts = 0.0, np.zeros(depth + 4)
    for w in range(depth):
        window = padded[w : w + 5]
        window = (window - window.min()) / (window.max() - window.min() + 1e-8)
        zoomed = np.stack([zoom(s, (size / height, size / width), order=3, mode="mirror") for s in window])
        with torch.no_grad():
            x = torch.from_numpy(zoomed).float()[:, None].repeat(1, 3, 1, 1)
            p = forward(x, 5).softmax(1).numpy()
        if isinstance(sums, float):
            sums = np.zeros((depth + 4, p.shape[1], height, width))
        for i in range(5):
            sums[w + i] += np.stack([zoom(c, (height / size, width / size), order=3, mode="mirror") for c in p[i]])
            counts[w + i] += 1
    mean = (sums / counts[:, None, None, None])[2:-2]
    return mean, mean.argmax(1)


@pytest.mark.parametrize("forward", [network(), mixing])
def test_the_fused_path_follows_the_reference(forward: Net) -> None:
    image = volume()
    mean, labels = by_hand(forward, image, 16)
    predictor = VolumePredictor(forward, 16, resizing="spline", chunk=15)
    np.testing.assert_allclose(torch.stack(list(predictor.probabilities(image))), mean, atol=2e-4)
    assert (predictor(image).numpy() != labels).mean() < 1e-3


@pytest.mark.parametrize("scaling", ["slice", "volume"])
@pytest.mark.parametrize("size", [14, 16])
def test_fast_equals_fused_where_the_scaling_does_not_depend_on_the_window(scaling: Scaling, size: int) -> None:
    image = volume(6, 14, 14)
    fused = VolumePredictor(network(), size, scaling=scaling)
    fast = VolumePredictor(network(), size, "fast", scaling=scaling)
    p, q = (torch.stack(list(predictor.probabilities(image))) for predictor in (fused, fast))
    torch.testing.assert_close(p, q, atol=1e-6, rtol=0)
    assert (fused(image) != fast(image)).float().mean() < 1e-3


def test_by_window_the_two_differ() -> None:
    image = volume(6, 14, 14)
    by_window, by_volume = (VolumePredictor(network(), 14, scaling=s) for s in ("window", "volume"))
    p, q = (torch.stack(list(predictor.probabilities(image))) for predictor in (by_window, by_volume))
    assert (p - q).abs().max() > 1e-2
    with pytest.raises(UsageError, match="mode fast needs scaling slice or volume, got window"):
        VolumePredictor(network(), 14, "fast")


def test_the_chunk_size_changes_nothing() -> None:
    def pointwise(images: Tensor, slices: int) -> Tensor:
        return torch.stack([images[:, 0] * 3 - 1, 1 - images[:, 0], images[:, 0].square()], 1)

    image = volume(11, 10, 12)
    for mode, scaling in (("fused", "window"), ("fused", "slice"), ("fast", "volume")):
        results = [
            torch.stack(list(VolumePredictor(pointwise, 16, mode, scaling=scaling, chunk=c).probabilities(image)))
            for c in (1, 7, 20, 1000)
        ]
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], atol=1e-6, rtol=0)
        labels = [VolumePredictor(pointwise, 16, mode, scaling=scaling, chunk=c)(image) for c in (1, 20)]
        assert torch.equal(*labels)


def test_few_pictures_at_a_time() -> None:
    seen = []

    def counting(images: Tensor, slices: int) -> Tensor:
        seen.append((len(images), slices))
        assert images.shape[1:] == (3, 8, 8)
        return images[:, :2]

    VolumePredictor(counting, 8, chunk=12)(volume(7, 8, 8))
    VolumePredictor(counting, 8, "fast", scaling="slice", chunk=4)(volume(7, 8, 8))
    assert seen == [(10, 5), (10, 5), (10, 5), (5, 5), (4, 1), (3, 1)]


def test_constant_probabilities_and_constant_volumes() -> None:
    def constant(images: Tensor, slices: int) -> Tensor:
        assert images.min() >= 0
        assert images.max() <= 1
        return torch.tensor([0.0, 1.0, 0.5])[None, :, None, None].expand(len(images), -1, *images.shape[2:])

    for resizing in ("torch", "spline"):
        predictor = VolumePredictor(constant, 16, resizing=resizing)
        for p in predictor.probabilities(torch.full((3, 9, 7), 40.0)):
            expected = torch.tensor([0.0, 1.0, 0.5]).softmax(0)[:, None, None].expand(3, 9, 7)
            torch.testing.assert_close(p, expected)
        labels = predictor(torch.full((3, 9, 7), 40.0))
        assert (labels.shape, labels.dtype, labels.unique().tolist()) == ((3, 9, 7), torch.uint8, [1])


def test_resizing_keeps_corners_and_is_close_to_the_spline_on_smooth_pictures() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 3, 30), torch.linspace(0, 2, 20), indexing="ij")
    picture = (y.sin() * x.cos())[None, None]
    spline, cubic = (resize(picture, (45, 32), mode) for mode in ("spline", "bicubic"))
    torch.testing.assert_close(spline, cubic, atol=1e-2, rtol=0)
    for corner in ((0, 0), (-1, -1), (0, -1)):
        assert float(spline[0, 0][corner]) == pytest.approx(float(picture[0, 0][corner]), abs=1e-5)
    assert resize(picture, (30, 20), "spline") is picture


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a volume must be \(slices, height, width\) .* got shape \(4, 4\)"):
        VolumePredictor(network(), 8)(torch.zeros(4, 4))
    with pytest.raises(UsageError, match="mode must be fused or fast, got slow"):
        VolumePredictor(network(), 8, "slow")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="chunk must be at least 1, got 0"):
        VolumePredictor(network(), 8, chunk=0)
    with pytest.raises(UsageError, match="scaling must be window, slice or volume, got x"):
        VolumePredictor(network(), 8, scaling="x")(torch.zeros(1, 4, 4))  # type: ignore[arg-type]
