"""CRISE, Concordance Ratio Induced Sign Election: how far to trust each client, and which way each coordinate goes.

Source: Benjamin et al., "FedSECA: Sign Election and Coordinate-wise Aggregation of Gradients for Byzantine Tolerant
Federated Learning", CVPR 2025 workshops, arXiv 2411.03861, Eqs. 2-4.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseca.blocks import gram, slices

Rating = Literal["concordance", "cosine_sign_mean", "kendall", "cosine_raw"]

# Coordinates whose signs are packed into bits at once: a multiple of 64, and the packed rows stay in cache.
PACKED = 131_072
# Sums of so many products of signs are whole numbers below 2^24, hence exact in float32 in any order.
MULTIPLIED = 1 << 20


def _sign_counts_by_bits(updates: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Upper triangles of what :func:`sign_counts` returns, by counting bits: 64 coordinates per instruction."""
    k, d = updates.shape
    agreement, both = np.zeros((2, k, k), np.int64)
    positive, nonzero = np.zeros((2, k, PACKED // 64), np.uint64)
    for columns in slices(d, PACKED):
        x = updates[:, columns]
        if x.shape[1] < PACKED:
            positive[:], nonzero[:] = 0, 0
        used = (slice(None), slice(-(-x.shape[1] // 8)))
        positive.view(np.uint8)[used] = np.packbits(x > 0, axis=1)
        nonzero.view(np.uint8)[used] = np.packbits(x != 0, axis=1)
        for i in range(k):
            shared = nonzero[i:] & nonzero[i]
            opposed = (positive[i:] ^ positive[i]) & shared
            counted = np.bitwise_count(shared).sum(1, dtype=np.int64)
            both[i, i:] += counted
            agreement[i, i:] += counted - 2 * np.bitwise_count(opposed).sum(1, dtype=np.int64)
    return agreement, both


def _sign_counts_by_products(updates: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`sign_counts` returns, as matrix products of signs, for accelerators."""
    k, d = updates.shape
    agreement, both = torch.zeros(2, k, k, dtype=torch.float64, device=updates.device)
    for columns in slices(d, MULTIPLIED):
        signs = updates[:, columns].sign().float()
        agreement += signs @ signs.T
        signs.abs_()
        both += signs @ signs.T
    return agreement, both


def sign_counts(updates: Tensor) -> tuple[Tensor, Tensor]:
    r"""Agreements less oppositions in sign of all pairs of clients, and how many coordinates neither leaves at zero.

    Args:
        updates: ``(K, d)`` floating point. A row that is not finite spoils only its own counts.

    Returns:
        :math:`\sum_j \mathrm{sgn}(g_k^j)\,\mathrm{sgn}(g_l^j)` and
        :math:`\sum_j |\mathrm{sgn}(g_k^j)\,\mathrm{sgn}(g_l^j)|`: two ``(K, K)`` matrices of exact whole numbers in
        float64.

    Example:
        >>> agreement, both = sign_counts(torch.tensor([[1.0, -2.0, 0.0], [3.0, 1.0, 5.0]]))
        >>> agreement
        tensor([[2., 0.],
                [0., 3.]], dtype=torch.float64)
        >>> both
        tensor([[2., 2.],
                [2., 3.]], dtype=torch.float64)
    """
    if updates.device.type != "cpu":
        return _sign_counts_by_products(updates)
    if updates.dtype == torch.bfloat16:  # numpy has no such type
        updates = updates.float()
    agreement, both = (
        torch.from_numpy(np.triu(upper) + np.triu(upper, 1).T).double()
        for upper in _sign_counts_by_bits(updates.detach().numpy())
    )
    return agreement, both


def _cosine(products: Tensor) -> Tensor:
    """Cosines of a Gram matrix; 0 where a vector is zero."""
    norms = products.diagonal().sqrt()
    scale = norms[:, None] * norms
    return torch.where(scale > 0, products / scale, 0.0)


def concordance(updates: Tensor, rating: Rating = "concordance") -> Tensor:
    r"""How much each pair of clients agrees, from -1 to 1, on raw updates.

    ==================== =====================================================================================
    ``concordance``      :math:`\omega_{kl} = \frac1d \sum_j \mathrm{sgn}(g_k^j)\,\mathrm{sgn}(g_l^j)` (Eq. 2)
    ``cosine_sign_mean`` cosine of the two sign vectors
    ``kendall``          :math:`(P-Q)/(P+Q)`, of ``P`` agreeing and ``Q`` opposed coordinates
    ``cosine_raw``       cosine of the updates themselves, which one large coordinate can decide
    ==================== =====================================================================================

    Args:
        updates: ``(K, d)`` floating point, finite.
        rating: Which of the four.

    Returns:
        ``(K, K)`` float64; 0 for a pair in which one vector is zero.

    Example:
        >>> concordance(torch.tensor([[1.0, -2.0, 0.0, 4.0], [2.0, -1.0, 0.0, -3.0]]))
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]], dtype=torch.float64)
    """
    if rating == "cosine_raw":
        return _cosine(gram(updates))
    agreement, both = sign_counts(updates)
    if rating == "concordance":
        return agreement / updates.shape[1]
    if rating == "cosine_sign_mean":
        return _cosine(agreement)
    return agreement / both.clamp(min=1)


def support(omega: Tensor, rating: Rating = "concordance") -> Tensor:
    r"""The backing of each client, :math:`K \rho_k`, from which the concordance ratio follows by dividing by ``K``.

    Eq. 3, :math:`\rho_k = \max(0, \frac1K \sum_l \mathrm{sgn}(\omega_{kl}))`, sums whole numbers; kept undivided they
    let :func:`elected_sign` see a tied vote as a tie. The other ratings average :math:`\omega` itself.

    Args:
        omega: ``(K, K)`` what :func:`concordance` returned for the same ``rating``.
        rating: As there.

    Returns:
        ``(K,)`` non-negative; whole numbers for the rating ``concordance``.

    Example:
        >>> support(torch.tensor([[0.5, 0.2, -0.1], [0.2, 0.5, -0.4], [-0.1, -0.4, 1.0]]))
        tensor([1., 1., 0.])
    """
    return (omega.sign() if rating == "concordance" else omega).sum(1).relu()


def elected_sign(votes: Sequence[Tensor] | Tensor, weights: Tensor) -> Tensor:
    r""":math:`s^j = \mathrm{sgn}(\sum_k \rho_k\, \mathrm{sgn}(v_k^j))`, Eq. 4; 0 where the vote is tied.

    Args:
        votes: ``(K, d)``, of which the signs vote; a zero abstains.
        weights: ``(K,)`` :math:`\rho_k`, or any positive multiple of it.

    Returns:
        ``(d,)`` of -1, 0 and 1.

    Example:
        >>> votes = torch.tensor([[1.0, -5.0, 0.0], [2.0, 1.0, 0.0], [-9.0, 1.0, 1.0]])
        >>> elected_sign(votes, torch.tensor([1.0, 1.0, 0.0]))
        tensor([1., 0., 0.])
    """
    tally, vote = torch.zeros_like(votes[0]), torch.empty_like(votes[0])
    for row, weight in zip(votes, weights.tolist(), strict=True):
        if weight:
            tally.add_(torch.sign(row, out=vote), alpha=weight)
    return tally.sign_()
