import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsam.losses import CrossEntropyDiceLoss, cross_entropy_and_dice, proximal_term
from shared.errors import UsageError


def plain(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in float64, a class at a time."""
    z, counted = z.double(), (y != -100).double()
    p, dice = z.softmax(1), []
    for c in range(z.shape[1]):
        t = (y == c).double()
        top = 2 * (p[:, c] * t * counted).sum() + 1e-5
        dice.append(1 - top / ((p[:, c] ** 2 * counted).sum() + (t**2 * counted).sum() + 1e-5))
    return F.cross_entropy(z, y, ignore_index=-100), sum(dice, torch.zeros(())) / z.shape[1]


def batch(n: int, classes: int, side: int, seed: int, ignored: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, classes, side, side, generator=generator)
    y = torch.randint(classes, (n, side, side), generator=generator)
    y[torch.rand(y.shape, generator=generator) < ignored] = -100
    y[0, 0, 0] = 0
    return z, y


@given(st.integers(1, 3), st.integers(2, 5), st.integers(1, 9), st.integers(0, 99), st.sampled_from([0.0, 0.3]))
def test_values_and_gradients_equal_the_plain_formula(
    n: int, classes: int, side: int, seed: int, ignored: float
) -> None:
    z, y = batch(n, classes, side, seed, ignored)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    for weights in ((0.2, 0.8), (1.0, 0.0), (0.0, 1.0)):
        ours.grad = theirs.grad = None
        a = sum(w * v for w, v in zip(weights, cross_entropy_and_dice(ours, y), strict=True))
        b = sum(w * v for w, v in zip(weights, plain(theirs, y), strict=True))
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6)
        a.backward()
        b.backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_uniform_logits_over_two_equal_halves() -> None:
    y = (torch.arange(64).reshape(1, 8, 8) % 2).long()
    ce, dice = cross_entropy_and_dice(torch.zeros(1, 2, 8, 8), y)
    assert float(ce) == pytest.approx(math.log(2), abs=1e-6)
    assert float(dice) == pytest.approx(1 / 3, abs=1e-6)
    assert float(CrossEntropyDiceLoss()(torch.zeros(1, 2, 8, 8), y)) == pytest.approx(0.4053, abs=5e-5)


def test_dice_is_one_over_the_batch_and_not_a_mean_over_images() -> None:
    z, y = batch(4, 3, 6, 1, 0.0)
    y[0] = 0
    _, whole = cross_entropy_and_dice(z, y)
    alone = torch.stack([cross_entropy_and_dice(z[i : i + 1], y[i : i + 1])[1] for i in range(4)]).mean()
    assert abs(float(whole - alone)) > 1e-3


def test_an_absent_class_counts_nearly_one() -> None:
    z = torch.zeros(2, 3, 16, 16)
    _, dice = cross_entropy_and_dice(z, torch.zeros(2, 16, 16, dtype=torch.long))
    n, third = 512, 1 / 3
    present = 1 - (2 * n * third + 1e-5) / (n * third**2 + n + 1e-5)
    absent = 1 - 1e-5 / (n * third**2 + 1e-5)
    assert float(dice) == pytest.approx((present + 2 * absent) / 3, abs=1e-6)


def test_ignored_pixels_count_nowhere() -> None:
    z, y = batch(2, 3, 8, 3, 0.4)
    changed = z.clone()
    changed[(y == -100)[:, None].expand_as(z)] = 40.0
    changed.requires_grad_()
    ce, dice = cross_entropy_and_dice(changed, y)
    torch.testing.assert_close((ce, dice), cross_entropy_and_dice(z, y))
    (ce + dice).backward()
    assert changed.grad is not None
    assert changed.grad[(y == -100)[:, None].expand_as(z)].abs().max() == 0
    bytes_ = torch.where(y == -100, 255, y).to(torch.uint8)
    assert cross_entropy_and_dice(z, bytes_) == cross_entropy_and_dice(z, y)


def test_half_precision_logits_are_summed_in_float32() -> None:
    z, y = batch(3, 3, 32, 5, 0.1)
    half = z.bfloat16().requires_grad_()
    loss = CrossEntropyDiceLoss()(half, y)
    assert loss.dtype == torch.float32
    # Only the logits were rounded, nothing after them.
    torch.testing.assert_close(loss, CrossEntropyDiceLoss()(half.detach().float(), y))
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CrossEntropyDiceLoss()(half, y), loss)


def test_confident_logits_stay_finite() -> None:
    z = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1).requires_grad_()
    loss = CrossEntropyDiceLoss()(z, torch.ones(1, 1, 1, dtype=torch.long))
    loss.backward()
    assert z.grad is not None
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert float(cross_entropy_and_dice(z.detach(), torch.ones(1, 1, 1, dtype=torch.long))[0]) == 2e4


def test_what_does_not_fit_is_refused() -> None:
    z = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UsageError, match=r"labels must lie in 0..2 or be -100 \(ignored\), got label 3"):
        cross_entropy_and_dice(z, torch.full((1, 4, 4), 3))
    with pytest.raises(UsageError, match=r"got shapes \(1, 3, 4, 4\) and \(1, 4, 5\)"):
        cross_entropy_and_dice(z, torch.zeros(1, 4, 5, dtype=torch.long))
    with pytest.raises(UsageError, match=r"labels must be integers, got a tensor of torch.float32"):
        cross_entropy_and_dice(z, torch.zeros(1, 4, 4))
    with pytest.raises(UsageError, match="must not be negative"):
        CrossEntropyDiceLoss(ce_weight=-1)


def test_the_proximal_term_pulls_towards_the_global_tensors() -> None:
    w, anchor = torch.tensor([2.0, 5.0], requires_grad=True), torch.tensor([1.0, 1.0], requires_grad=True)
    proximal_term([w], [anchor], mu=0.3).backward()
    torch.testing.assert_close(w.grad, 0.3 * (w - anchor).detach())
    assert anchor.grad is None
