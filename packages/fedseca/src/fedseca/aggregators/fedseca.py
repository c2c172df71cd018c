"""FedSECA: elect a sign per coordinate by concordance, then average what agrees with it."""

from typing import Literal, get_args

import torch
from torch import Tensor

from fedseca.blocks import chunk_width, finite_clients, slices, squared_norms
from fedseca.crise import Rating, concordance, elected_sign, support
from fedseca.magnitude_quantile import magnitude_quantile
from fedseca.roca import (
    Keep,
    aligned_mean,
    clamp_bounds,
    clamp_magnitudes,
    clip_factors,
    clip_norms,
    contributors_mean,
    last_dropped,
    sparsify,
)
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator

Variant = Literal["released", "paper"]
VoteOn = Literal["sparse", "raw"]
ClampOn = Literal["raw", "clipped"]


def fedseca_update(
    updates: Tensor,
    *,
    gamma: float = 0.9,
    vote_on: VoteOn = "sparse",
    clamp_on: ClampOn = "raw",
    keep: Keep = ">=",
    rating: Rating = "concordance",
    crise: bool = True,
    clip: bool = True,
    clamp: bool = True,
    align: bool = True,
    chunk: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The stateless part of :class:`FedSECA`: everything but momentum. Arguments and errors are described there.

    Args:
        updates: ``(K, d)``; read only.

    Returns:
        ``u``, ``(d,)``, and the diagnostics.

    Example:
        >>> opposed = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
        >>> fedseca_update(opposed)[0]
        tensor([0., 0.])
    """
    clients, d = updates.shape
    dtype = torch.promote_types(updates.dtype, torch.float32)
    squared = squared_norms(updates)
    kept = finite_clients(squared, "FedSECA")
    # Rows that are not finite spoil only their own rows and columns of a pairwise matrix, so no copy is needed here.
    omega = concordance(updates, rating)[kept][:, kept]
    backing = support(omega, rating) if crise else omega.new_ones(len(kept))
    tau, factors = clip_factors(squared[kept].sqrt())
    scales = factors.tolist() if clip else [1.0] * len(kept)
    quantiles = [magnitude_quantile(updates[k], gamma) for k in kept] if gamma else [0.0] * len(kept)
    thresholds = [last_dropped(quantile, keep, dtype) for quantile in quantiles]

    u = torch.empty(d, dtype=dtype, device=updates.device)
    aligned = torch.zeros(len(kept), dtype=torch.int64, device=updates.device)
    width = min(d, chunk_width(clients, updates.device, chunk))
    # Two buffers for the whole walk: fresh memory per step would cost more in page faults than the arithmetic.
    buffers = torch.empty(2, len(kept), width, dtype=dtype, device=updates.device)
    for columns in slices(d, width):
        raw = [updates[k, columns].to(dtype) for k in kept]
        x, work = buffers[..., : len(raw[0])]
        sparsify(raw, thresholds, out=x)
        if clamp_on == "clipped":
            clip_norms(x, scales, out=x)
        if clamp:
            clamp_magnitudes(x, clamp_bounds(clip_norms(raw, scales, out=work)), out=x)
        if align:
            u[columns], counts = aligned_mean(x, elected_sign(x if vote_on == "sparse" else raw, backing))
        else:
            u[columns], counts = contributors_mean(x)
        aligned += counts

    def for_all(values: Tensor, absent: float = 0) -> Tensor:
        return values.new_full((clients,), absent).index_copy(0, torch.tensor(kept, device=values.device), values)

    pairs = omega.new_zeros(clients, clients)
    pairs[torch.tensor(kept)[:, None], kept] = omega
    return u, {
        "rho": for_all(backing / len(kept) if crise else backing),
        "omega": pairs,
        "aligned": for_all(aligned),
        "density": torch.count_nonzero(u) / d,
        "tau": tau,
        "lambda": for_all(torch.tensor(quantiles, dtype=torch.float64), torch.nan),
        "dropped": torch.tensor(clients - len(kept)),
    }


def _check_choice(name: str, value: str, allowed: object) -> None:
    if value not in get_args(allowed):
        raise UsageError(f"FedSECA: {name} must be one of {', '.join(get_args(allowed))}, got {value!r}")


class FedSECA(VectorAggregator):
    r"""Sign election and coordinate-wise aggregation with server momentum.

    With the functions of :mod:`fedseca.crise` and :mod:`fedseca.roca`, one round is

    1. :math:`\omega_{kl}`, how much clients agree in sign, and :math:`\rho_k = \max(0, \frac1K\sum_l
       \mathrm{sgn}\,\omega_{kl})` (Eqs. 2, 3);
    2. :math:`c_k = g_k \min(1, \tau/\|g_k\|)` with the median norm :math:`\tau` (Eq. 5);
    3. :math:`x_k`: magnitudes limited to :math:`\mu^j = \mathrm{median}_k |c_k^j|` (Eq. 6), and zero where
       :math:`|g_k^j|` is below its ``gamma``-quantile :math:`\lambda_k` over :math:`j` (Eq. 7);
    4. :math:`s^j = \mathrm{sgn} \sum_k \rho_k\,\mathrm{sgn}(v_k^j)` and :math:`u^j`, the mean of the :math:`x_k^j` that
       have the sign :math:`s^j`, 0 if there is none (Eq. 4);
    5. :math:`m \leftarrow (1-\beta) u + \beta m`.

    The released program and the equations differ in three places; ``variant`` chooses, and each can be overridden:

    ============  =============================================  ==================  ==========================
    ``variant``   ``vote_on``: :math:`v_k`                       ``clamp_on``        ``keep``
    ============  =============================================  ==================  ==========================
    ``released``  ``sparse``: the :math:`x_k`, many abstain      ``raw`` g           ``>=`` :math:`\lambda_k`
    ``paper``     ``raw``: the :math:`g_k`                       ``clipped`` c       ``>`` :math:`\lambda_k`
    ============  =============================================  ==================  ==========================

    Uploads that hold NaN or infinity are left out and counted. The result has the same bits for every ``chunk``.

    Source: Benjamin et al., "FedSECA: Sign Election and Coordinate-wise Aggregation of Gradients for Byzantine Tolerant
    Federated Learning", CVPR 2025 workshops, arXiv 2411.03861.

    Args:
        gamma: Fraction of each upload that sparsification removes, in [0, 1); 0 switches it off.
        beta: Server momentum in [0, 1); 0 switches it off. There is no bias correction.
        variant: ``released`` or ``paper``.
        vote_on: Overrides the variant's choice.
        clamp_on: Overrides the variant's choice.
        keep: Overrides the variant's choice.
        rating: How two clients are compared, see :func:`fedseca.crise.concordance`.
        crise: False gives every client the vote 1.
        clip: False leaves norms alone: :math:`c_k = g_k`. With ``clamp_on`` raw, clipping acts through the bounds only.
        clamp: False leaves magnitudes alone.
        align: False holds no election: the mean of all non-zero :math:`x_k^j`.
        chunk: Coordinates handled at once; ``None`` fits the cache.

    Attributes:
        momentum: ``(d,)`` the last update; ``None`` before the first round, or if ``beta`` is 0.
        diagnostics: ``rho`` (K,), ``omega`` (K, K), ``aligned`` (K,) coordinates of each client in ``u``, ``density``
            (fraction of ``u`` that is not zero), ``tau``, ``lambda`` (K,) and ``dropped`` (how many uploads were not
            finite). A dropped client has zeros, and NaN for its lambda.

    Raises:
        UsageError: An argument is out of range or unknown, no upload is finite, or the length of the vectors changed.

    Example:
        >>> updates = torch.tensor([[1.0, -2.0, 0.0, 4.0], [2.0, -1.0, 0.0, -3.0], [-1.0, 3.0, 0.0, 5.0]])
        >>> rule = FedSECA(gamma=0.0, beta=0.0)
        >>> rule(updates)
        tensor([ 1.0000, -1.5000,  0.0000,  0.0000])
        >>> rule.diagnostics["rho"]
        tensor([0.3333, 0.3333, 0.0000], dtype=torch.float64)
    """

    momentum: Tensor | None

    def __init__(
        self,
        gamma: float = 0.9,
        beta: float = 0.5,
        variant: Variant = "released",
        vote_on: VoteOn | None = None,
        clamp_on: ClampOn | None = None,
        keep: Keep | None = None,
        rating: Rating = "concordance",
        crise: bool = True,
        clip: bool = True,
        clamp: bool = True,
        align: bool = True,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("gamma", gamma), ("beta", beta)):
            if not 0 <= value < 1:
                raise UsageError(f"FedSECA: {name} must be in [0, 1), got {value}")
        _check_choice("variant", variant, Variant)
        released = variant == "released"
        self.gamma = gamma
        self.beta = beta
        self.vote_on: VoteOn = vote_on or ("sparse" if released else "raw")
        self.clamp_on: ClampOn = clamp_on or ("raw" if released else "clipped")
        self.keep: Keep = keep or (">=" if released else ">")
        self.rating: Rating = rating
        _check_choice("vote_on", self.vote_on, VoteOn)
        _check_choice("clamp_on", self.clamp_on, ClampOn)
        _check_choice("keep", self.keep, Keep)
        _check_choice("rating", rating, Rating)
        self.crise = crise
        self.clip = clip
        self.clamp = clamp
        self.align = align
        self.chunk = chunk
        self.register_buffer("momentum", None)

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate the momentum, unless ``beta`` is 0."""
        if self.beta:
            self.momentum = torch.zeros(d, device=device)

    def combine(
        self,
        updates: Tensor,
        *,
        origin: Tensor | None,
        weights: Tensor,
        client_ids: tuple[int, ...],
        round: int,
        reference: Tensor | None,
    ) -> Tensor:
        d = updates.shape[1]
        if self.momentum is not None and len(self.momentum) != d:
            raise UsageError(f"FedSECA: updates must have {len(self.momentum)} coordinates as before, got {d}")
        u, self.diagnostics = fedseca_update(
            updates,
            gamma=self.gamma,
            vote_on=self.vote_on,
            clamp_on=self.clamp_on,
            keep=self.keep,
            rating=self.rating,
            crise=self.crise,
            clip=self.clip,
            clamp=self.clamp,
            align=self.align,
            chunk=self.chunk,
        )
        if not self.beta:
            return u
        if self.momentum is None:
            self.momentum = torch.zeros_like(u)
        self.momentum = self.momentum.to(u).mul_(self.beta)
        # The caller gets its own copy: what it does with the update must not reach the state.
        return u.copy_(self.momentum.add_(u.mul_(1 - self.beta)))
