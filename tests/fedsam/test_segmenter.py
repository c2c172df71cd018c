from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsam.inference import resize
from fedsam.losses import cross_entropy_and_dice
from shared.errors import UsageError

Make = Callable[..., Any]


def test_a_decoder_of_a_quarter_is_trained_on_every_fourth_label(make_segmenter: Make) -> None:
    batch = torch.rand(2, 5, 32, 32), torch.randint(0, 2, (2, 5, 32, 32), dtype=torch.uint8)
    batch[1][0, 0, :5] = 255
    pictures = batch[0].reshape(10, 1, 32, 32).expand(-1, 3, -1, -1)
    rows = torch.linspace(0, 31, 8).round().long()
    losses = {}
    for low_res in (True, False):
        task = make_segmenter(variant="samed", low_res_loss=low_res).local
        logits = task.network.low_res_logits(pictures)
        assert logits.shape == (10, 2, 8, 8)
        labels = batch[1].reshape(10, 32, 32)
        if low_res:
            labels = labels[:, rows][:, :, rows]
        else:
            logits = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
        ce, dice = cross_entropy_and_dice(logits, labels)
        losses[low_res] = task.loss(batch)
        torch.testing.assert_close(losses[low_res], 0.2 * ce + 0.8 * dice)
    assert losses[True] != losses[False]
    full = [make_segmenter(low_res_loss=low_res).local.loss(batch) for low_res in (True, False)]
    assert torch.equal(*full)


def test_what_does_not_fit_is_refused(make_segmenter: Make) -> None:
    with pytest.raises(UsageError, match="class_names must be background and 1 classes"):
        make_segmenter(class_names=["block"])
    with pytest.raises(UsageError, match=r"model\.inference\.mode must be fused for a variant that mixes"):
        make_segmenter(variant="masam")


def test_a_volume_is_segmented_on_its_own_grid(make_segmenter: Make, make_volumes: Make) -> None:
    data, task = make_volumes(), make_segmenter().local.eval()
    data.setup()
    volume = next(iter(data.test_dataloader()))
    found = task.segment(volume)
    assert found.shape == volume.label.shape
    assert found.dtype == torch.uint8
    image = torch.from_numpy(volume.image)
    low, high = image.amin((1, 2))[:, None, None], image.amax((1, 2))[:, None, None]
    scaled = (resize(image[:, None], (32, 32), "bicubic")[:, 0] - low) / (high - low + 1e-8)
    with torch.no_grad():
        probabilities = task(scaled[:, None].expand(-1, 3, -1, -1)).softmax(1)
    assert torch.equal(found, resize(probabilities, (20, 24), "bilinear").argmax(1).to(torch.uint8))
