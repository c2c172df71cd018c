import numpy as np
import pytest
import torch

from shared.data.labelled_images import LabelledImages
from shared.data.preprocessing import channel_statistics, layout, normalise
from shared.errors import UsageError


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_layout_moves_channels_first_and_repeats_grey() -> None:
    images = pictures(2, 4, 5, 3)
    np.testing.assert_array_equal(layout(images).numpy(), images.transpose(0, 3, 1, 2))
    grey = pictures(2, 4, 5, 1)
    np.testing.assert_array_equal(layout(grey, channels=3).numpy(), np.repeat(grey.transpose(0, 3, 1, 2), 3, axis=1))


def test_colour_becomes_luma() -> None:
    images = pictures(2, 4, 5, 3)
    luma = images @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(layout(images, channels=1).numpy()[:, 0], luma, atol=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_files_one_by_one_equals_the_batch(interpolation: str) -> None:
    images = pictures(3, 8, 8, 3)
    batch = layout(images, size=5, interpolation=interpolation)  # type: ignore[arg-type]
    single = layout(list(images), size=5, interpolation=interpolation)  # type: ignore[arg-type]
    assert batch.shape == (3, 3, 5, 5)
    assert batch.dtype == torch.uint8
    torch.testing.assert_close(batch, single)


def test_files_of_different_sizes_need_options() -> None:
    mixed = [pictures(4, 4, 3), pictures(6, 4, 1)]
    assert layout(mixed, channels=3, size=4).shape == (2, 3, 4, 4)
    with pytest.raises(
        UsageError, match=r"data.image_size and data.channels must be set .*\(1, 6, 4\) and \(3, 4, 4\)"
    ):
        layout(mixed)


def test_normalisation_is_that_of_the_formula() -> None:
    images = layout(pictures(2, 4, 5, 3))
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    result = normalise(images, mean, std)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous()
    torch.testing.assert_close(normalise(images, [0.5], [0.5]), images / 127.5 - 1)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("in_memory", [True, False])
def test_statistics_equal_those_of_numpy(
    channels: int | None, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(1100, 4, 4, 3)  # more than two blocks
    data = LabelledImages(images, np.zeros(1100, int), "a", name="set")
    if not in_memory:
        monkeypatch.setattr(data, "pixels", lambda rows: list(images[rows]))
    mean, std = channel_statistics(data, channels)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_statistics_refuse_constant_and_mixed_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(3, 4, 4, 3)
    images[..., 1] = 9
    data = LabelledImages(images, np.zeros(3, int), "a", name="set")
    with pytest.raises(UsageError, match=r"data.std must be given where .* set has 9 everywhere in channel 1"):
        channel_statistics(data)
    monkeypatch.setattr(data, "pixels", lambda rows: [pictures(4, 4, 3), pictures(4, 4, 1)])
    with pytest.raises(UsageError, match=r"data.channels must be 1 or 3 where grey and colour images are mixed"):
        channel_statistics(data)
