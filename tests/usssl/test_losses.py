"""The losses against plain references written from their formulas, against lightly, and at the points known by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import BarlowTwinsLoss as LightlyBarlowTwins
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from torch import Tensor
from torch.nn import functional as F

from shared.errors import RunError
from usssl.losses.barlow_twins import BarlowTwinsLoss, cross_correlation_penalty
from usssl.losses.byol import byol_loss
from usssl.losses.nt_xent import nt_xent_loss, queue_loss
from usssl.losses.sup_con import sup_con_loss
from usssl.losses.vicreg import variance_covariance, vicreg_loss

Pair = tuple[Tensor, Tensor]


def pair(batch: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(batch, width, generator=generator, dtype=dtype)
    first, second = (torch.randn(batch, width, generator=generator, dtype=dtype) for _ in range(2))
    return common + first / 2, common + second / 2


def plain_barlow_twins(z1: Tensor, z2: Tensor, lambda_: float = 0.0051) -> Tensor:
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (z1, z2))
    total = z1.new_zeros(())
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            c = (a[:, i] * b[:, j]).sum() / len(z1)
            total = total + ((c - 1) ** 2 if i == j else lambda_ * c**2)
    return total


def plain_vicreg(z1: Tensor, z2: Tensor) -> Tensor:
    n, d = z1.shape
    s = ((z1 - z2) ** 2).sum() / (n * d)
    v = c = z1.new_zeros(())
    for z in (z1, z2):
        z = z - z.mean(0)
        sigma = (z.square().sum(0) / (n - 1) + 1e-4).sqrt()
        v = v + torch.clamp(1 - sigma, min=0).sum() / d / 2
        cov = z.T @ z / (n - 1)
        c = c + sum(cov[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return 25 * s + 25 * v + c


def plain_nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=1, keepdim=True)
    n = len(z1)
    total = z1.new_zeros(())
    for i in range(2 * n):
        e = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n)]
        total = total - torch.log(e[(i + n) % (2 * n)] / sum(e[k] for k in range(2 * n) if k != i))
    return total / (2 * n)


def plain_sup_con(z: Tensor, labels: Tensor, temperature: float, base: float) -> Tensor:
    views = z.shape[1]
    vectors = z.reshape(-1, z.shape[2])
    label = [int(labels[i // views]) for i in range(len(vectors))]
    total = z.new_zeros(())
    for i in range(len(vectors)):
        denominator = sum(torch.exp(vectors[i] @ vectors[a] / temperature) for a in range(len(vectors)) if a != i)
        positives = [p for p in range(len(vectors)) if p != i and label[p] == label[i]]
        terms = [vectors[i] @ vectors[p] / temperature - torch.log(denominator) for p in positives]
        total = total - temperature / base * sum(terms) / len(positives)
    return total / len(vectors)


def value_and_gradients(loss: Callable[[Tensor, Tensor], Tensor], z1: Tensor, z2: Tensor) -> tuple[Tensor, ...]:
    z1, z2 = (z.clone().requires_grad_() for z in (z1, z2))
    value = loss(z1, z2)
    return value.detach(), *torch.autograd.grad(value, (z1, z2))


def ours_barlow_twins(z1: Tensor, z2: Tensor) -> Tensor:
    return BarlowTwinsLoss(z1.shape[1]).to(z1.dtype)(z1, z2)


REFERENCES = {
    "barlowtwins": (ours_barlow_twins, plain_barlow_twins),
    "vicreg": (vicreg_loss, plain_vicreg),
    "simclr": (nt_xent_loss, plain_nt_xent),
}
LIGHTLY = {
    "barlowtwins": (ours_barlow_twins, LightlyBarlowTwins(0.0051)),
    "vicreg": (vicreg_loss, VICRegLoss()),
    "simclr": (nt_xent_loss, NTXentLoss(0.5)),
    "byol": (byol_loss, lambda p, z: 2 + 2 * NegativeCosineSimilarity()(p, z)),
}


@pytest.mark.parametrize("shape", [(4, 7), (9, 5), (6, 6), (2, 3)], ids=str)  # both sides of the Gram identity
@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_gradients_are_those_of_the_formula(name: str, shape: tuple[int, int]) -> None:
    ours, plain = REFERENCES[name]
    views = pair(*shape)
    for mine, theirs in zip(value_and_gradients(ours, *views), value_and_gradients(plain, *views), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8)], ids=str)
@pytest.mark.parametrize("name", LIGHTLY)
def test_values_and_gradients_are_lightlys_in_float32(name: str, shape: tuple[int, int]) -> None:
    ours, peer = LIGHTLY[name]
    views = pair(*shape, dtype=torch.float32)
    mine, theirs = value_and_gradients(ours, *views), value_and_gradients(peer, *views)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=0)
    for own, other in zip(mine[1:], theirs[1:], strict=True):
        assert (own - other).norm() <= 1e-4 * other.norm()


@settings(max_examples=25)
@given(batch=st.integers(2, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_gram_matrices_give_what_the_correlation_matrix_gives(batch: int, width: int, seed: int) -> None:
    a, b = pair(batch, width, seed)
    for loss in (
        lambda x, y, gram: cross_correlation_penalty(x, y, 0.3, gram),
        lambda x, y, gram: variance_covariance(x, 2.0, 3.0, gram=gram) + variance_covariance(y / 9, gram=gram),
    ):
        small = value_and_gradients(lambda x, y, f=loss: f(x, y, True), a, b)
        large = value_and_gradients(lambda x, y, f=loss: f(x, y, False), a, b)
        for one, other in zip(small, large, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_columns_at_a_time_give_what_the_whole_views_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, gradients and running statistics of both ways, in training and in evaluation; chunks of 3 columns of 7."""
    z1, z2 = pair(5, 7)
    monkeypatch.setattr("usssl.losses.barlow_twins.CHUNK", 16)
    monkeypatch.setattr("usssl.losses.barlow_twins.FEWEST", 1)
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr("usssl.losses.barlow_twins.GRAM_BELOW", share)
        loss = BarlowTwinsLoss(7, lambda_=0.3).double()
        trained = value_and_gradients(loss, z1, z2)
        found.append((*trained, loss.running_mean, loss.running_var, *value_and_gradients(loss.eval(), z1, z2)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.any(found[0][0] != found[0][5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "loss", [ours_barlow_twins, vicreg_loss, nt_xent_loss], ids=["barlowtwins", "vicreg", "simclr"]
)
def test_losses_are_taken_in_float32_under_autocast(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """Width 8192, embeddings in half precision: finite, and equal to float32 on the same numbers, gradients too."""
    z1, z2 = (40 * z.to(dtype) for z in pair(8, 8192, dtype=torch.float32))
    wanted = value_and_gradients(lambda a, b: loss(a.float(), b.float()), z1, z2)

    def under_autocast(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return loss(a, b)

    found = value_and_gradients(under_autocast, z1, z2)
    assert all(x.isfinite().all() for x in found)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == dtype
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_backward_pass_is_in_float32_inside_autocast_too() -> None:
    z1, z2 = pair(8, 256, dtype=torch.float32)
    wanted = value_and_gradients(vicreg_loss, z1, z2)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_gradients(vicreg_loss, z1, z2)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


# ---------------------------------------------------------------------- known by hand


def test_barlow_twins_at_known_points() -> None:
    z = torch.tensor([[1.0], [-1.0]])
    assert BarlowTwinsLoss(1)(z, -z).item() == pytest.approx(3.99996, abs=1e-6)  # 4 less the eps of BatchNorm
    z1, z2 = pair(16, 6, dtype=torch.float32)
    loss = BarlowTwinsLoss(6)
    assert BarlowTwinsLoss(6, lambda_=0.0)(z1, z1).item() == pytest.approx(0, abs=1e-8)
    torch.testing.assert_close(loss(z1, z2), loss(z2, z1))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(z1[order], z2[order]), loss(z1, z2))
    scale, shift = torch.tensor([0.5, 2, 3, 10, 0.7, 1]), torch.tensor([1.0, -2, 0, 5, 3, -1])
    torch.testing.assert_close(loss(z1 * scale + shift, z2), loss(z1, z2), rtol=1e-3, atol=0)


def test_barlow_twins_keeps_running_statistics_as_a_batchnorm_called_twice() -> None:
    z1, z2 = pair(16, 6, dtype=torch.float32)
    loss, norm = BarlowTwinsLoss(6), torch.nn.BatchNorm1d(6, affine=False)
    loss(z1, z2)
    norm(z1), norm(z2)
    torch.testing.assert_close(loss.running_mean, norm.running_mean)
    torch.testing.assert_close(loss.running_var, norm.running_var)
    loss.eval(), norm.eval()
    a, b = norm(z1), norm(z2)
    wanted = cross_correlation_penalty(a, b)
    torch.testing.assert_close(loss(z1, z2), wanted)
    assert not torch.isclose(loss(z1, z2), loss.train()(z1, z2))
    assert {name for name, _ in loss.named_buffers()} == {"running_mean", "running_var"}
    assert not list(loss.parameters())


def test_vicreg_at_known_points() -> None:
    zero = torch.zeros(4, 3)
    assert vicreg_loss(zero, zero).item() == pytest.approx(24.75)
    apart = 100 * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert vicreg_loss(apart, apart).item() == pytest.approx(0, abs=1e-6)


def test_contrastive_losses_at_known_points() -> None:
    same = torch.ones(4, 3)
    assert nt_xent_loss(same, same).item() == pytest.approx(math.log(7))
    assert nt_xent_loss(same[:1], -same[:1]).item() == 0
    one = F.normalize(torch.randn(1, 128), dim=1)
    assert queue_loss(one.expand(3, -1), one.expand(3, -1), one.expand(4096, -1)).item() == pytest.approx(8.318010)
    assert nt_xent_loss(same.half() * 9, same.half() * 9, temperature=1e-3).isfinite()  # e^1000 is not


def test_queue_loss_is_the_cross_entropy_of_the_formula() -> None:
    q, k = pair(5, 7)
    queue = F.normalize(pair(11, 7, seed=1)[0], dim=1)
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (q, k))
    terms = []
    for i in range(5):
        right = torch.exp(a[i] @ b[i] / 0.2)
        terms.append(-torch.log(right / (right + torch.exp(queue @ a[i] / 0.2).sum())))
    torch.testing.assert_close(queue_loss(q, k, queue, 0.2), torch.stack(terms).mean())


@pytest.mark.parametrize(("temperature", "base"), [(0.07, 0.07), (1.0, 0.07)])
def test_sup_con_is_its_formula(temperature: float, base: float) -> None:
    z = F.normalize(torch.stack(pair(6, 4), 1), dim=2)
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    found = sup_con_loss(z, labels, temperature, base)
    torch.testing.assert_close(found, plain_sup_con(z, labels, temperature, base))


def test_sup_con_without_labels_is_nt_xent() -> None:
    z1, z2 = pair(6, 4)
    z = F.normalize(torch.stack([z1, z2], 1), dim=2)
    torch.testing.assert_close(sup_con_loss(z, None, 0.3, 0.3), nt_xent_loss(z1, z2, 0.3))


def test_byol_at_known_points() -> None:
    p = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert [byol_loss(p, z).item() for z in (p, -p)] == pytest.approx([0, 4], abs=1e-6)


def test_one_image_is_no_batch() -> None:
    one = torch.zeros(1, 3)
    with pytest.raises(RunError, match="at least 2 images for VICReg, got 1"):
        vicreg_loss(one, one)
    with pytest.raises(RunError, match="at least 2 images for Barlow Twins to train on, got 1"):
        BarlowTwinsLoss(3)(one, one)
    assert BarlowTwinsLoss(3).eval()(one, one).isfinite()
