import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate
from torch import Tensor

from fedsam.augmentation import BatchAugmentation
from fedsam.augmentation.batch import NAMES, Draws, draw
from fedsam.augmentation.policy import OPERATIONS, Policy
from fedsam.augmentation.sample import erased, gamma_corrected, operated, rot_flip, to_bytes
from shared.errors import UsageError

S = 32


def batch(windows: int = 3, size: int = S) -> tuple[Tensor, Tensor]:
    """Smooth pictures, so that interpolations agree."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((windows, 5, size, size)), (0, 0, 3, 3))
    images = torch.from_numpy((noise - noise.min()) / (noise.max() - noise.min())).float()
    return images, (images * 3).clamp(max=2).to(torch.uint8)


def nothing(windows: int, operations: int = 1) -> Draws:
    zeros = torch.zeros(windows)
    return Draws(
        quarters=zeros.long(),
        flips=zeros.long() - 1,
        angles=zeros,
        gammas=zeros + 1,
        boxes=torch.zeros(windows, 4),
        operations=torch.full((windows, operations), NAMES.index("identity")),
        magnitudes=torch.zeros(windows, operations),
    )


def run(images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    return BatchAugmentation().transform(images, labels, draws, torch.Generator().manual_seed(5))


def test_without_steps_nothing_changes() -> None:
    images, labels = batch()
    augment = BatchAugmentation(Policy(rot_flip=0, rotate=0, gamma=0, erase=0, operations=0))
    out, out_labels = augment(images, labels, torch.Generator().manual_seed(0))
    assert torch.equal(out, images)
    assert torch.equal(out_labels, labels)
    out.zero_()
    assert images.any()


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_turns_and_flips_move_whole_pixels(k: int, axis: int) -> None:
    images, labels = batch()
    draws = nothing(3)
    draws.quarters[:], draws.flips[:] = k, axis
    out, out_labels = run(images, labels, draws)
    for i in range(3):
        expected, expected_labels = rot_flip(images[i].numpy(), labels[i].numpy(), k, axis)
        np.testing.assert_allclose(out[i], expected, atol=1e-5)
        assert np.array_equal(out_labels[i], expected_labels)


@pytest.mark.parametrize("degrees", [-15, 7])
def test_rotation(degrees: int) -> None:
    images, labels = batch()
    draws = nothing(3)
    draws.angles[:] = degrees
    out, out_labels = run(images, labels, draws)
    # As the reference: nearest neighbours for images too.
    for result, source in ((out, images), (out_labels, labels)):
        expected = rotate(source.numpy(), degrees, axes=(2, 3), order=0, reshape=False)
        assert (result.numpy() == expected)[..., 6:-6, 6:-6].mean() > 0.999
    assert out[..., 0, 0].max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_agrees_with_8_bit_pil(name: str) -> None:
    images, labels = batch()
    low, high = OPERATIONS[name]
    for share in (0.1, 0.8):
        value = low + share * (high - low)
        draws = nothing(3)
        draws.operations[:], draws.magnitudes[:] = NAMES.index(name), value
        out, out_labels = run(images, labels, draws)
        for i in range(3):
            pictures = [Image.fromarray(x) for x in to_bytes(images[i].numpy())]
            masks = [Image.fromarray(x) for x in labels[i].numpy()]
            expected, expected_labels = operated(pictures, masks, name, value)
            difference = np.abs(out[i].numpy() - np.stack([np.asarray(x) for x in expected]) / 255)
            assert np.quantile(difference, 0.9) < 2.6 / 255, share  # at the border of the picture PIL does not fade
            same = out_labels[i].numpy() == np.stack([np.asarray(x) for x in expected_labels])
            assert same.mean() > 0.99


def test_two_operations_act_one_after_the_other() -> None:
    images, labels = batch()
    draws = nothing(3, 2)
    draws.operations[:] = torch.tensor([NAMES.index("scale"), NAMES.index("translate_x")])
    draws.magnitudes[:] = torch.tensor([0.8, 0.15])
    out, _ = run(images, labels, draws)
    pictures = [Image.fromarray(x) for x in to_bytes(images[0].numpy())]
    for name, value in (("scale", 0.8), ("translate_x", 0.15)):
        pictures, _ = operated(pictures, [], name, value)
    difference = np.abs(out[0].numpy() - np.stack([np.asarray(x) for x in pictures]) / 255)
    assert np.quantile(difference, 0.9) < 3 / 255


def test_gamma_and_erasing() -> None:
    images, labels = batch()
    labels = labels + 1
    draws = nothing(3)
    draws.gammas[1] = 2.2
    draws.boxes[1] = torch.tensor([8 / S, 4 / S, 6 / S, 10 / S])
    out, out_labels = run(images, labels, draws)
    noise = torch.rand(6, 10, generator=torch.Generator().manual_seed(5))
    expected, expected_labels = erased(
        gamma_corrected(images[1].numpy(), 2.2), labels[1].numpy(), (8, 4, 6, 10), noise.numpy()
    )
    np.testing.assert_allclose(out[1], expected, atol=1e-6)
    assert np.array_equal(out_labels[1], expected_labels)
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    # An operation that follows moves the box too.
    draws.operations[1], draws.magnitudes[1] = NAMES.index("translate_x"), 0.125
    _, moved = run(images, labels, draws)
    assert torch.equal(moved[1, :, :, : S - 4], out_labels[1, :, :, 4:])


def test_draws_have_the_reference_distributions() -> None:
    n = 20_000
    draws = draw(n, Policy(), torch.Generator().manual_seed(0))
    flipped = draws.flips >= 0
    assert float(flipped.float().mean()) == pytest.approx(0.5, abs=0.02)
    for axis in range(2):
        assert float((draws.flips[flipped] == axis).float().mean()) == pytest.approx(0.5, abs=0.02)
    for k in range(4):
        assert float((draws.quarters[flipped] == k).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not draws.quarters[~flipped].any()
    assert set(draws.angles.tolist()) == set(range(-15, 15))
    assert float((draws.angles == 0).float().mean()) == pytest.approx(0.5 + 0.5 / 30, abs=0.02)
    curved = draws.gammas[draws.gammas != 1]
    assert len(curved) / n == pytest.approx(0.5, abs=0.02)
    assert float(curved.min()) >= 0.5
    assert float(curved.max()) <= 3.5
    assert float(curved.mean()) == pytest.approx(2, abs=0.03)
    boxes = draws.boxes[draws.boxes[:, 2] > 0]
    assert len(boxes) / n == pytest.approx(0.5, abs=0.02)
    area, ratio = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    assert 0.0199 < float(area.min()) < float(area.max()) < 0.0501
    assert 0.299 < float(ratio.min()) < float(ratio.max()) < 3.301
    assert float((boxes[:, :2] + boxes[:, 2:]).max()) <= 1
    assert (draws.operations[:, 0] != draws.operations[:, 1]).all()
    for i, (low, high) in enumerate(OPERATIONS.values()):
        mine = draws.operations == i
        assert float(mine.float().mean()) == pytest.approx(0.1, abs=0.01)
        values = draws.magnitudes[mine]
        assert low <= float(values.min())
        assert float(values.max()) <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_seeds_labels_and_shared_slices() -> None:
    images, labels = batch(24)
    images[:], labels[:] = images[:, :1], labels[:, :1]
    for dtype in (torch.uint8, torch.long):
        first = BatchAugmentation()(images, labels.to(dtype), torch.Generator().manual_seed(3))
        again = BatchAugmentation()(images, labels.to(dtype), torch.Generator().manual_seed(3))
        other = BatchAugmentation()(images, labels.to(dtype), torch.Generator().manual_seed(4))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0])
        assert first[1].dtype == dtype
        assert set(first[1].unique().tolist()) <= {0, 1, 2}
        assert torch.equal(first[0], first[0][:, :1].expand_as(first[0]))
        assert torch.equal(first[1], first[1][:, :1].expand_as(first[1]))
        assert first[0].min() >= 0
        assert first[0].max() <= 1
    with pytest.raises(UsageError, match=r"must both be \(windows, slices, S, S\), got \(1, 5, 4, 5\)"):
        BatchAugmentation()(torch.zeros(1, 5, 4, 5), torch.zeros(1, 5, 4, 5), torch.Generator())
