"""FLDetector: suspect whose uploads keep contradicting what the history of updates predicts."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fedseca.blocks import BLOCK, combinations, finite_clients, gram, slices, squared_norms
from fedseca.gap_statistic import upper_group
from fedseca.lbfgs import hessian_coefficients
from fedseca.order_statistics import lower_median
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.seeds import derived_seed

Inner = Literal["median", "mean"]

# Below this share of its terms a squared error is computed from the vectors themselves.
NEAR = 1e-9


def remainders(
    factor: float, coefficients: Tensor, squared_norms: Tensor, along: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    r""":math:`\|a\, g_k - \sum_i c_{ki} r_i\|_2^2` from inner products, and what it was added up from.

    Args:
        factor: a.
        coefficients: ``(K, h)`` the c.
        squared_norms: ``(K,)`` of the :math:`g_k`.
        along: ``(K, h)`` inner products of the :math:`g_k` with the :math:`r_i`.
        products: ``(h, h)`` of the :math:`r_i`.

    Returns:
        The squares and the sums of the magnitudes of all terms, both ``(K,)``. A square is wrong by about
        :math:`2^{-52}` of that sum: where it is below :data:`NEAR` of it, six digits are left or fewer.

    Example:
        >>> one = torch.ones(1, 1)
        >>> remainders(2.0, 3 * one, torch.ones(1), one, one)  # of 2 - 3
        (tensor([1.]), tensor([25.]))
    """
    parts = (
        factor**2 * squared_norms,
        (-2 * factor * coefficients * along).T,
        (coefficients[:, :, None] * coefficients[:, None] * products).flatten(1).T,
    )
    whole = torch.cat([part.reshape(-1, len(coefficients)) for part in parts])
    return whole.sum(0), whole.abs().sum(0)


def _mixed(coefficients: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """The sum of multiples of vectors, ``(d,)`` float64."""
    out = torch.zeros_like(vectors[0], dtype=torch.float64)
    for columns in slices(len(out), BLOCK):
        for vector, factor in zip(vectors, coefficients.tolist(), strict=True):
            out[columns].add_(vector[columns], alpha=factor)
    return out


def _distance(vector: Tensor, *others: Tensor) -> Tensor:
    """Length of a vector less others, subtracted in its own type and squared in float64."""
    total = torch.zeros((), dtype=torch.float64, device=vector.device)
    for columns in slices(len(vector), BLOCK):
        left = vector[columns] - others[0][columns]
        for other in others[1:]:
            left -= other[columns]
        total += torch.linalg.vector_norm(left, dtype=torch.float64).square()
    return total.sqrt_()


class FLDetector(VectorAggregator):
    r"""A median (or mean) without the clients whose prediction errors form a cluster of their own.

    The update m of every round is remembered. From the third round on L-BFGS gives the Hessian B that the remembered
    updates suggest, and each client an error; the suspicion of a client is the mean of its errors over the last
    ``window`` rounds. Where the gap statistic finds more than one cluster among the suspicions, the clients of the
    upper one of two are left out of the round.

    ============  ====================================  =========================================================
    ``faithful``  pairs :math:`(s_i, y_i)`              error of client k in round t
    ============  ====================================  =========================================================
    ``False``     :math:`(m_i,\; m_{i-1} - m_i)`        :math:`\|g_k^t - B g_k^t\|`, as released
    ``True``      :math:`(m_{i-1},\; m_{i-1} - m_i)`    :math:`\|g_k^t - g_k^{t-1} + B m_{t-1}\|`, as published,
                                                        divided by the sum of all clients' errors
    ============  ====================================  =========================================================

    As released, suspects are not taken out of the median but set to zero in it (``parity``). Uploads that hold NaN or
    infinity are left out first and get no error. Parting into two groups is exact, so only the uniform samples of the
    gap statistic are random; they depend on the seed and the round alone.

    Source: Zhang et al., "FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting
    Malicious Clients", KDD 2022, Algorithms 1-3.

    Args:
        window: Over how many rounds errors are averaged, and how many pairs the Hessian is made of.
        faithful: Errors as published. Remembers the last upload of every client.
        parity: Suspects stand in the median as zeros; only with ``inner`` median. False leaves them out.
        inner: ``median`` (lower) or ``mean`` of the clients that are left.
        references: How many uniform samples the gap statistic takes.
        seed: Of these samples.

    Attributes:
        aggregates: ``(window + 1, d)`` the last updates, round after round in a ring.
        rounds: How many updates there were.
        errors: ``(window, ids)`` the last errors of every client in a ring; NaN where there is none.
        uploads: ``(ids, d)`` the last upload of every client if ``faithful``; NaN where there is none.
        diagnostics: ``suspicion`` (K,), NaN where there is none; ``suspects`` (K,), 1 for who was left out; and
            ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: An argument is out of range or unknown, ``parity`` meets the mean, no upload is finite, or the
            length of the vectors changed.

    Example:
        >>> rule = FLDetector()
        >>> [rule(torch.tensor([[1.0, 2.0], [1.1, 2.0], [1.0, 2.1]]), round=t) for t in range(2)]
        [tensor([1., 2.]), tensor([1., 2.])]
    """

    aggregates: Tensor | None
    rounds: Tensor
    errors: Tensor
    uploads: Tensor | None

    def __init__(
        self,
        window: int = 10,
        faithful: bool = False,
        parity: bool = True,
        inner: Inner = "median",
        references: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("window", window), ("references", references)):
            if value < 1:
                raise UsageError(f"FLDetector: {name} must be at least 1, got {value}")
        if inner not in get_args(Inner):
            raise UsageError(f"FLDetector: inner must be one of {', '.join(get_args(Inner))}, got {inner!r}")
        if parity and inner == "mean":
            raise UsageError("FLDetector: parity=true reproduces a median, inner=mean needs parity=false")
        self.window = window
        self.faithful = faithful
        self.parity = parity
        self.inner: Inner = inner
        self.references = references
        self.seed = seed
        self.register_buffer("aggregates", None)
        self.register_buffer("rounds", torch.tensor(0))
        self.register_buffer("errors", torch.empty(window, 0, dtype=torch.float64))
        self.register_buffer("uploads", None)

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Forget everything."""
        self.aggregates = torch.zeros(self.window + 1, d, device=device)
        self.rounds = torch.tensor(0, device=device)
        self.errors = torch.empty(self.window, 0, dtype=torch.float64, device=device)
        self.uploads = torch.empty(0, d, device=device) if self.faithful else None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Which clients there are shows only in what was saved.
        for name in ("errors", "uploads"):
            if getattr(self, name) is not None and prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _make_room(self, updates: Tensor, client_ids: tuple[int, ...]) -> None:
        """Allocate what is missing for these clients, in the type of their uploads."""
        d = updates.shape[1]
        if self.aggregates is None:
            self.setup(d, updates.device)
        assert self.aggregates is not None
        if self.aggregates.shape[1] != d:
            raise UsageError(f"FLDetector: updates must have {self.aggregates.shape[1]} coordinates as before, got {d}")
        self.aggregates = self.aggregates.to(updates)
        self.errors = self.errors.to(updates.device)
        more = client_ids[-1] + 1 - self.errors.shape[1]
        if more > 0:
            self.errors = torch.cat([self.errors, self.errors.new_full((self.window, more), torch.nan)], 1)
        if self.uploads is not None:
            self.uploads = self.uploads.to(updates)
            missing = self.errors.shape[1] - len(self.uploads)
            if missing:
                self.uploads = torch.cat([self.uploads, updates.new_full((missing, d), torch.nan)])

    def _pairs(self, remembered: int) -> tuple[Tensor, Tensor]:
        """Steps and changes as combinations of the remembered updates, oldest first."""
        unit = torch.eye(remembered, dtype=torch.float64)
        before, after = unit[:-1], unit[1:]
        return before if self.faithful else after, before - after

    def _prediction_errors(self, updates: Tensor, kept: list[int], ids: list[int], squared_norms: Tensor) -> Tensor:
        """The error of every kept client; NaN for one whose last upload is needed and not known."""
        assert self.aggregates is not None
        total, ring = int(self.rounds), self.window + 1
        history = [self.aggregates[t % ring] for t in range(max(0, total - ring), total)]
        steps, changes = (x.to(updates.device) for x in self._pairs(len(history)))
        if self.uploads is not None:
            # The Hessian is applied to the last step alone, which is the last update with the other sign.
            products = gram(history)
            sigma, curved = hessian_coefficients(steps, changes, products, -products[-1:])
            curved[:, -1] -= sigma
            expected = _mixed(curved[0], history).to(updates.dtype)
            errors = torch.stack(
                [_distance(updates[k], self.uploads[i], expected) for k, i in zip(kept, ids, strict=True)]
            )
            return errors / errors.nansum()
        products = gram([*updates, *history], history)
        along, products = products[kept], products[len(updates) :]
        sigma, curved = hessian_coefficients(steps, changes, products, along)
        squared, terms = remainders(1 - sigma, curved, squared_norms[kept], along, products)
        for i in torch.nonzero(squared <= NEAR * terms).flatten().tolist():
            squared[i] = _distance((1 - sigma) * updates[kept[i]].double(), _mixed(curved[i], history)).square()
        return squared.sqrt_()

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
        squared = squared_norms(updates)
        kept = finite_clients(squared, "FLDetector")
        ids = [client_ids[k] for k in kept]
        self._make_room(updates, client_ids)
        assert self.aggregates is not None
        suspicion = torch.full((len(kept),), torch.nan, dtype=torch.float64, device=updates.device)
        if self.rounds >= 2:
            slot = int(self.rounds) % self.window
            self.errors[slot] = torch.nan
            self.errors[slot, ids] = self._prediction_errors(updates, kept, ids, squared)
            suspicion = self.errors[:, ids].nanmean(0)
        known = torch.nonzero(suspicion.isfinite()).flatten().tolist()
        generator = np.random.default_rng(derived_seed(self.seed, "gap statistic", round))
        guilty = upper_group(suspicion[known].cpu().numpy(), generator, self.references)
        suspects = {kept[known[i]] for i in np.flatnonzero(guilty)}
        left = [k for k in kept if k not in suspects]
        if self.inner == "mean":
            shares = torch.tensor([[float(k not in suspects) / len(left) for k in kept]])
            update = combinations(shares, updates, kept)[0]
        else:
            zero = torch.zeros_like(updates[0])
            update = lower_median([updates[k] for k in left] + [zero] * (len(suspects) if self.parity else 0))
        self.aggregates[int(self.rounds) % (self.window + 1)] = update
        self.rounds += 1
        if self.uploads is not None:
            for k, client in zip(kept, ids, strict=True):
                self.uploads[client] = updates[k]
        self.diagnostics = {
            "suspicion": suspicion.new_full((len(updates),), torch.nan),
            "suspects": torch.tensor([float(k in suspects) for k in range(len(updates))]),
            "dropped": torch.tensor(len(updates) - len(kept)),
        }
        self.diagnostics["suspicion"][kept] = suspicion
        return update
