r"""Server rules for LoRA factors: how the pairs of K clients become the pairs of the next round.

A client's target is :math:`B_k A_k`, and what the clients have learned together is the mean product
:math:`M = \sum_k w_k B_k A_k`, of rank up to ``K r``. The mean of the factors, :math:`\sum w_k B_k \sum w_k A_k`, is
another matrix. The rules differ in what they put in place of ``M``:

================= ============================================== ==========================================
rule              factors of the next round                      product
================= ============================================== ==========================================
SVDExact          B = U, A = S V of the leading r triples of M   best of rank r
SVDBalanced       B = U sqrt(S), A = sqrt(S) V                   best of rank r
FedAvgFactors     the means of B and of A                        not M, exact only where one factor agrees
FreezeA           the mean of B, A as it was                     M, where clients do not train A
Stack             all factors side by side, rank K r             M
================= ============================================== ==========================================

All other tensors are averaged. Clients are taken in the order of their ids, so the order of uploads changes no bit.
The first two change the basis of the factors: moments that a client's AdamW keeps from the round before belong to
other coordinates. A module that keeps them should offer ``reset_lora_moments`` and, where it is set, drop the moments
of :meth:`LoraRule.rebased` before the next round (the reference keeps them).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fedsam.lora_products import LoraPair, is_factor_a, lora_pairs, squared_norm, truncated_product
from shared.errors import UsageError
from shared.federated.aggregation import StateRule
from shared.threads import torch_threads

Preset = Literal["kits", "ixi", "prostate"]
# As in the FLAP-SAM reference code. Only those of IXI equal its subject counts; the others look like slice counts.
PRESETS: dict[str, tuple[float, ...]] = {
    "kits": (0.03, 0.18, 0.15, 0.10, 0.05, 0.49),
    "ixi": (0.55, 0.32, 0.13),
    "prostate": (0.15, 0.26, 0.31, 0.08, 0.13, 0.07),
}
# Targets that are computed together. More save no calls worth saving, and their factors would not fit the caches.
BATCH = 4


def weighted_mean(tensors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of ``w_k x_k`` in the order given; a single client's tensor comes back bit for bit.

    Example:
        >>> weighted_mean([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], torch.tensor([0.75, 0.25]))
        tensor([1.5000, 3.0000])
    """
    if not tensors[0].is_floating_point():
        return tensors[0].clone()
    mean = tensors[0] * float(weights[0])
    for tensor, weight in zip(tensors[1:], weights[1:].tolist(), strict=True):
        mean.add_(tensor, alpha=weight)
    return mean


def batches_of_pairs(pairs: Iterable[LoraPair], shapes: Mapping[str, Tensor]) -> list[list[LoraPair]]:
    """Pairs with factors of the same shapes together, at most :data:`BATCH` of them."""
    groups: dict[Any, list[LoraPair]] = defaultdict(list)
    for pair in pairs:
        groups[shapes[pair.a].shape, shapes[pair.b].shape].append(pair)
    return [group[i : i + BATCH] for group in groups.values() for i in range(0, len(group), BATCH)]


class LoraRule(StateRule):
    """A server rule that treats LoRA pairs (found by name, see :func:`lora_pairs`) apart and averages the rest.

    Args:
        client_weights: Weights by client id instead of those of the run: a list, or the name of one of the reference
            code's lists (``kits``, ``ixi``, ``prostate``). They are scaled to sum to 1 over the clients of a round.
            By default the run's own weights count (by samples, or equal).

    Attributes:
        trains_a: Whether clients train and send the factors A.
        diagnostics: What the last call wishes to log.

    Raises:
        UsageError: An unknown preset, a negative or not finite weight, or weights that are all zero.
    """

    trains_a: bool = True

    def __init__(self, client_weights: list[float] | Preset | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if isinstance(client_weights, str):
            if client_weights not in PRESETS:
                raise UsageError(
                    f"{name}: client_weights must be a list or one of {list(PRESETS)}, got {client_weights}"
                )
            client_weights = list(PRESETS[client_weights])
        self.client_weights: Tensor | None = None
        if client_weights is not None:
            self.client_weights = torch.tensor(client_weights, dtype=torch.float64)
            self._require_weights(self.client_weights, "client_weights")

    def _require_weights(self, weights: Tensor, what: str) -> None:
        if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
            raise UsageError(
                f"{type(self).__name__}: {what} must be finite, not negative and not all zero, got {weights.tolist()}"
            )

    def check(self, uploads: int, clients: int | None = None) -> None:
        """Refuse a federation for which ``client_weights`` is not the right list.

        Raises:
            UsageError: Fewer uploads than ``min_clients``, or another number of clients than weights.
        """
        super().check(uploads)
        clients = uploads if clients is None else clients
        if self.client_weights is not None and len(self.client_weights) != clients:
            raise UsageError(
                f"{type(self).__name__}: client_weights must have one weight per client, "
                f"got {len(self.client_weights)} for {clients}"
            )

    def weights_of_round(self, client_ids: Sequence[int], weights: Tensor) -> Tensor:
        """``(K,)`` float64 weights of the round's clients, summing to one.

        Raises:
            UsageError: A client has no weight, a weight is negative, or all are zero.
        """
        if self.client_weights is not None:
            without = [k for k in client_ids if not 0 <= k < len(self.client_weights)]
            if without:
                raise UsageError(
                    f"{type(self).__name__}: client_weights must have a weight for every client, "
                    f"got {len(self.client_weights)} and client {without[0]}"
                )
            weights = self.client_weights[list(client_ids)]
        if len(weights) != len(client_ids):
            raise UsageError(
                f"{type(self).__name__}: weights must be one per client, got {len(weights)} for {len(client_ids)}"
            )
        weights = weights.double().cpu()
        self._require_weights(weights, "weights")
        return weights / weights.sum()

    def forward(
        self,
        uploads: Sequence[Mapping[str, Tensor]],
        *,
        origin: Mapping[str, Tensor],
        weights: Tensor,
        client_ids: Sequence[int],
        round: int,
        **extra: Any,
    ) -> dict[str, Tensor]:
        """Combine the uploads (new values) into the new global tensors.

        Args:
            uploads: One mapping of names to tensors per client.
            origin: The global tensors before the round.
            weights: ``(K,)`` of the run; scaled to sum to one.
            client_ids: Distinct ids, in the order of ``uploads``.
            round: Index of the round, from 0.

        Raises:
            UsageError: No upload, weights that make no sense, ids that repeat, or a factor without its partner.
        """
        if len(uploads) < max(1, self.min_clients) or len(set(client_ids)) != len(uploads):
            raise UsageError(
                f"{type(self).__name__}: uploads must be at least {max(1, self.min_clients)}, one per distinct client, "
                f"got {len(uploads)} of clients {list(client_ids)}"
            )
        order = sorted(range(len(uploads)), key=lambda i: client_ids[i])
        uploads = [uploads[i] for i in order]
        ids = [client_ids[i] for i in order]
        scaled = self.weights_of_round(ids, weights if len(weights) != len(order) else weights[order])
        self.diagnostics = {}
        # The factors are many and small: on one thread they take the least time and the least CPU.
        with torch.no_grad(), torch_threads(1):
            return self.combine(uploads, origin=origin, weights=scaled, client_ids=ids, round=round)

    def combine(
        self,
        uploads: Sequence[Mapping[str, Tensor]],
        *,
        origin: Mapping[str, Tensor],
        weights: Tensor,
        client_ids: Sequence[int],
        round: int,
    ) -> dict[str, Tensor]:
        """The rule on checked input, clients in ascending order: means, and :meth:`combine_pairs` where pairs stand."""
        pairs = self.pairs(uploads[0])
        factors = {name for pair in pairs for name in (pair.a, pair.b)}
        combined = {
            name: weighted_mean([upload[name] for upload in uploads], weights)
            for name in uploads[0]
            if name not in factors
        }
        told: dict[str, list[Tensor]] = defaultdict(list)
        for batch in batches_of_pairs(pairs, uploads[0]):
            a = torch.stack([torch.stack([upload[pair.a] for pair in batch]) for upload in uploads])
            b = torch.stack([torch.stack([upload[pair.b] for pair in batch]) for upload in uploads])
            before = torch.stack([origin[pair.a] for pair in batch])
            new_a, new_b, measures = self.combine_pairs(a, b, weights.to(a.device), before)
            for i, pair in enumerate(batch):
                combined[pair.a], combined[pair.b] = new_a[i].to(a.dtype), new_b[i].to(b.dtype)
            for name, values in measures.items():
                told[name].append(values)
        self.diagnostics = self.summary({name: torch.cat(values) for name, values in told.items()})
        return combined

    def pairs(self, names: Iterable[str]) -> list[LoraPair]:
        """The pairs among the tensors that travel; none where A stays at home, and B is a tensor like any other."""
        names = list(names)
        return lora_pairs(names) if self.trains_a or any(map(is_factor_a, names)) else []

    def combine_pairs(
        self, a: Tensor, b: Tensor, weights: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The new factors of ``T`` targets of one shape.

        Args:
            a: ``(K, T, r, in)``.
            b: ``(K, T, out, r)``.
            weights: ``(K,)`` float64, summing to one.
            before: ``(T, r, in)``, A before the round.

        Returns:
            A, B, and for each target ``kept`` and ``energy`` ``(T,)``: squared norms of what is kept of the mean
            product, and of the whole.
        """
        raise NotImplementedError

    def summary(self, measures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``kept_energy``: kept share of the squared norm of all mean products, and that of the worst target."""
        if not measures:
            return {}
        kept, energy = measures["kept"], measures["energy"]
        shares = torch.where(energy > 0, kept / energy, 1.0)
        total = kept.sum() / energy.sum() if energy.sum() > 0 else torch.ones(())
        return {"kept_energy": total, "kept_energy_worst": shares.min()}

    def rebased(self, names: Iterable[str]) -> list[str]:
        """Which of the named tensors have a new basis after a round, so that optimiser moments no longer fit them."""
        return []


def stacked(a: Tensor, b: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``(T, K r, in)`` and ``(T, out, K r)`` in float64 whose product is the weighted mean of the products."""
    k, t, r, width = a.shape
    rows = a.double().permute(1, 0, 2, 3).reshape(t, k * r, width)
    columns = (b.double() * weights[:, None, None, None]).permute(1, 2, 0, 3).reshape(t, b.shape[2], k * r)
    return rows, columns


class SVDExact(LoraRule):
    """``B = U`` and ``A = S V`` of the leading ``r`` singular triples of the mean product.

    No product of size ``out x in`` is built; see :func:`fedsam.lora_products.truncated_product`. Truncation loses what
    ``kept_energy`` says: six unrelated clients of rank 32 keep some 38 %, one client or clients that agree all of it.

    Source: the FLAP-SAM reference code, which takes a randomised SVD of the dense product; where the spectrum is flat
    that one errs.
    """

    balance = False

    def combine_pairs(
        self, a: Tensor, b: Tensor, weights: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        rows, columns = stacked(a, b, weights)
        u, s, vh, energy = truncated_product(columns, rows, rank=a.shape[2])
        root = s.sqrt() if self.balance else torch.ones_like(s)
        measures = {"kept": s.square().sum(-1), "energy": energy}
        return (s / torch.where(root > 0, root, 1.0))[..., None] * vh, u * root[:, None], measures

    def rebased(self, names: Iterable[str]) -> list[str]:
        return [name for pair in lora_pairs(names) for name in (pair.a, pair.b)]


class SVDBalanced(SVDExact):
    """As :class:`SVDExact` with ``sqrt(S)`` on both factors: ``B = U sqrt(S)``, ``A = sqrt(S) V``.

    A direction whose singular value is 0 then has neither factor left, and can no longer learn.
    """

    balance = True


class FedAvgFactors(LoraRule):
    """The means of A and of B, each by itself, as plain FedAvg would.

    ``diagnostics["product_error"]`` is the norm of the difference to the mean product, relative to its norm.

    Source: the usual federated LoRA; "FedIT", Zhang et al., ICASSP 2024.
    """

    def combine_pairs(
        self, a: Tensor, b: Tensor, weights: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        new_a, new_b = weighted_mean(list(a), weights), weighted_mean(list(b), weights)
        rows, columns = stacked(a, b, weights)
        error = squared_norm(torch.cat([columns, -new_b.double()], -1), torch.cat([rows, new_a.double()], -2))
        return new_a, new_b, {"error": error, "energy": squared_norm(columns, rows)}

    def summary(self, measures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not measures or not measures["energy"].any():
            return {}
        return {"product_error": (measures["error"].clamp(min=0).sum() / measures["energy"].sum()).sqrt()}


class FreezeA(LoraRule):
    """The mean of B; A stays what it is on all clients, which neither train nor send it.

    The product of the next round is then the mean product, in the old rank and without truncation. Uploads that do
    hold A are accepted as long as it has not changed.

    Source: Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024 (FFA-LoRA).
    """

    trains_a = False

    def combine_pairs(
        self, a: Tensor, b: Tensor, weights: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if not torch.equal(a, before.expand_as(a)):
            raise UsageError(
                "FreezeA needs clients that leave the LoRA factors A as they are, got an A that has changed"
            )
        new_b = weighted_mean(list(b), weights)
        energy = squared_norm(new_b.double(), before.double())
        return before.clone(), new_b, {"kept": energy, "energy": energy}


class Stack(LoraRule):
    """All factors side by side: A ``(K r, in)`` and B ``(out, K r)``, whose product is the mean product, exactly.

    The factors do not fit the adapters that they came from. As in the source, clients therefore add the product to
    their frozen weights and start the next round with fresh adapters of rank ``r``: :func:`restart` gives both. Frozen
    weights then change from round to round, and what travels down is ``K`` times what travels up.

    Source: Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations",
    NeurIPS 2024.
    """

    def combine_pairs(
        self, a: Tensor, b: Tensor, weights: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        rows, columns = stacked(a, b, weights)
        energy = squared_norm(columns, rows)
        return rows, columns, {"kept": energy, "energy": energy}

    def rebased(self, names: Iterable[str]) -> list[str]:
        return [name for pair in lora_pairs(names) for name in (pair.a, pair.b)]


def restart(
    combined: Mapping[str, Tensor], rank: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""What follows :class:`Stack`: increments of the frozen weights, and the state with fresh adapters.

    Args:
        combined: The result of the rule.
        rank: Rank ``r`` of the fresh adapters.
        generator: CPU generator of the fresh A; all clients must draw the same.

    Returns:
        ``B A`` by target, ``(out, in)``, still to be multiplied by the adapter's scale; and ``combined`` with A drawn
        anew, uniform in :math:`\pm 1/\sqrt{\mathrm{in}}` (Kaiming with a = sqrt 5), and B zero.
    """
    increments, state = {}, dict(combined)
    for pair in lora_pairs(combined):
        a, b = combined[pair.a], combined[pair.b]
        increments[pair.target] = b @ a
        bound = a.shape[1] ** -0.5
        state[pair.a] = torch.empty(rank, a.shape[1]).uniform_(-bound, bound, generator=generator).to(a)
        state[pair.b] = b.new_zeros(b.shape[0], rank)
    return increments, state
