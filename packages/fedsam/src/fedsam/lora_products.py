"""LoRA pairs by name, and the best factors of a given rank of a sum of their products."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import UsageError

FACTOR = re.compile(r"(?P<target>.*\blora_[a-z]+(?:\.\d+)?)\.(?P<factor>[AB])")


def is_factor_a(name: str) -> bool:
    """Whether a tensor's name is that of a LoRA factor A.

    Example:
        >>> is_factor_a("blocks.0.attn.lora_q.A"), is_factor_a("blocks.0.attn.lora_q.B"), is_factor_a("head.A")
        (True, False, False)
    """
    match = FACTOR.fullmatch(name)
    return match is not None and match["factor"] == "A"


class LoraPair(NamedTuple):
    """The names of the two factors of one target, ``(r, in)`` and ``(out, r)``; the target's product is ``B A``."""

    target: str
    a: str
    b: str


def lora_pairs(names: Iterable[str]) -> list[LoraPair]:
    """The LoRA pairs among tensor names, sorted: ``…lora_q.A`` with ``…lora_q.B``, or ``…lora_q.0.A`` with ``…0.B``.

    Several parallel LoRAs of one projection (``num_lora`` above 1) are pairs of their own: how clients mix them is
    personal, so each is combined by itself.

    Raises:
        UsageError: A factor without its partner.

    Example:
        >>> lora_pairs(["head.weight", "blocks.0.attn.lora_q.B", "blocks.0.attn.lora_q.A"])
        [LoraPair(target='blocks.0.attn.lora_q', a='blocks.0.attn.lora_q.A', b='blocks.0.attn.lora_q.B')]
    """
    found: dict[str, set[str]] = {}
    for name in names:
        if match := FACTOR.fullmatch(name):
            found.setdefault(match["target"], set()).add(match["factor"])
    for target, factors in found.items():
        if len(factors) == 1:
            missing = "B" if "A" in factors else "A"
            raise UsageError(
                f"LoRA factors must come in pairs, got {target}.{factors.pop()} without {target}.{missing}"
            )
    return [LoraPair(target, f"{target}.A", f"{target}.B") for target in sorted(found)]


def squared_norm(b: Tensor, a: Tensor) -> Tensor:
    r"""Squared norms :math:`\|B A\|_F^2` of ``(T, out, n)`` by ``(T, n, in)``, ``(T,)``, without the product."""
    return ((b.mT @ b) * (a @ a.mT)).sum((-2, -1))


class TruncatedProduct(NamedTuple):
    """``u (T, out, r)``, ``s (T, r)``, ``vh (T, r, in)`` and ``energy (T,)``, the squared norm before truncation."""

    u: Tensor
    s: Tensor
    vh: Tensor
    energy: Tensor


def truncated_product(b: Tensor, a: Tensor, rank: int) -> TruncatedProduct:
    r"""The ``rank`` leading singular triples of ``B A`` for each of ``T`` targets, without forming ``B A``.

    With ``n < out`` columns, :math:`B^T B = L L^T` stands for the thin QR of ``B`` (:math:`R = L^T`), and the left
    singular vectors come from the eigenvectors of the ``n x n`` core :math:`L^T (A A^T) L`, whose eigenvalues are the
    squared singular values. Everything is in float64, so that squaring costs no digit of float32 factors: relative to
    the largest, singular values above 1e-6 are resolved. One thin QR makes ``u`` orthonormal to rounding, also where
    ``B A`` has rank below ``rank``: its surplus columns are then some orthonormal ones with ``s = 0``, so that a factor
    built from them can still learn. ``s vh`` is :math:`U^T B A`. Where ``rank`` exceeds ``out`` or ``in`` the surplus
    is zero.

    The sign of each triple is such that the entry of largest magnitude in ``u``'s column (the first of equals) is
    positive.

    Args:
        b: ``(T, out, n)``.
        a: ``(T, n, in)``.
        rank: How many triples, ``r``, at most ``n``.

    Returns:
        In float64, singular values descending.
    """
    b, a = b.double(), a.double()
    out, n = b.shape[-2:]
    gram = a @ a.mT
    if n < out:
        squares = b.mT @ b
        # Cholesky needs a positive definite matrix; this much moves no singular value above 1e-6 of the largest.
        mean = squares.diagonal(dim1=-2, dim2=-1).sum(-1)
        shift = torch.where(mean > 0, 1e-13 * mean, 1.0)
        lower = torch.linalg.cholesky(squares + torch.diag_embed(shift[:, None].expand(-1, n)))
        core = lower.mT @ gram @ lower
        energy = core.diagonal(dim1=-2, dim2=-1).sum(-1) * (mean > 0)
        vectors = torch.linalg.eigh(core).eigenvectors[..., -rank:].flip(-1)
        u = b @ torch.linalg.solve_triangular(lower.mT, vectors, upper=True)
    else:
        core = b @ gram @ b.mT
        energy = core.diagonal(dim1=-2, dim2=-1).sum(-1)
        u = torch.linalg.eigh(core).eigenvectors[..., -rank:].flip(-1)
    u = torch.linalg.qr(u).Q
    rows = (u.mT @ b) @ a
    largest = u.gather(-2, u.abs().argmax(-2, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(u)
    u, rows = u * sign, rows * sign.mT
    s = rows.norm(dim=-1)
    vh = rows / torch.where(s > 0, s, 1.0)[..., None]
    surplus = rank - u.shape[-1]
    return TruncatedProduct(F.pad(u, (0, surplus)), F.pad(s, (0, surplus)), F.pad(vh, (0, 0, 0, surplus)), energy)
