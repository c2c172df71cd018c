"""Robust rules on flat vectors, lifted to LoRA: on the products, or on B alone where A is frozen."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedsam.lora_aggregation import LoraRule, Preset
from fedsam.lora_products import LoraPair, lora_pairs, truncated_product
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator

Space = Literal["products", "b"]


class RobustLora(LoraRule):
    """A robust vector rule (median, Krum, FedSECA …) over clients that train LoRA.

    The rule sees one row per client, all ordinary tensors first, then what stands for the LoRA pairs:

    - ``products``: the matrices ``B A``, ``out x in`` numbers per target. Two clients with the same product are then
      the same to the rule, whatever their bases. The combined matrix is factored anew at the old rank, ``B = U`` and
      ``A = S V``; ``diagnostics["kept_energy"]`` is what that keeps. Memory and time are those of dense weights: for
      38 targets of ViT-B 15 M coordinates per client.
    - ``b``: the factors B; clients neither train nor send A (as for ``FreezeA``). Cheap, and nothing is truncated.

    Args:
        rule: The rule; its state is the state of this one.
        space: ``products`` or ``b``.
        client_weights: As for every LoRA rule; most robust rules ignore weights.

    Attributes:
        diagnostics: Those of the rule, and ``kept_energy``.

    Raises:
        UsageError: ``space`` is unknown, or with ``b`` a client has changed its A.
    """

    def __init__(
        self, rule: VectorAggregator, space: Space = "products", client_weights: list[float] | Preset | None = None
    ) -> None:
        super().__init__(client_weights)
        if space not in {"products", "b"}:
            raise UsageError(f"RobustLora: space must be products or b, got {space}")
        self.rule = rule
        self.space = space
        self.trains_a = space == "products"
        self.min_clients = rule.min_clients

    def setup(self, template: Mapping[str, Tensor]) -> None:
        """Allocate the rule's state for the length of its rows."""
        self.rule.setup(self._row(template, self.pairs(template)).numel())

    def check(self, uploads: int, clients: int | None = None) -> None:
        """Ask the rule about the number of uploads too."""
        super().check(uploads, clients)
        self.rule.check(uploads)

    def _others(self, state: Mapping[str, Tensor], pairs: Sequence[LoraPair]) -> list[str]:
        factors = {name for pair in pairs for name in (pair.a, pair.b)}
        return [name for name, tensor in state.items() if name not in factors and tensor.is_floating_point()]

    def _row(self, state: Mapping[str, Tensor], pairs: Sequence[LoraPair]) -> Tensor:
        """One client's vector."""
        parts = [state[name] for name in self._others(state, pairs)]
        parts += [state[pair.b] @ state[pair.a] if self.space == "products" else state[pair.b] for pair in pairs]
        return torch.cat([part.reshape(-1) for part in parts])

    def combine(
        self,
        uploads: Sequence[Mapping[str, Tensor]],
        *,
        origin: Mapping[str, Tensor],
        weights: Tensor,
        client_ids: Sequence[int],
        round: int,
    ) -> dict[str, Tensor]:
        pairs = self.pairs(uploads[0])
        if self.space == "b" and not all(torch.equal(u[p.a], origin[p.a]) for u in uploads for p in pairs):
            raise UsageError(
                "RobustLora: space b needs clients that leave the LoRA factors A as they are, got a changed A"
            )
        before = self._row(origin, pairs)
        rows = torch.stack([before - self._row(upload, pairs) for upload in uploads])
        after = before - self.rule(rows, origin=before, weights=weights, client_ids=client_ids, round=round)
        self.diagnostics = dict(self.rule.diagnostics)

        others = self._others(uploads[0], pairs)
        shapes = [origin[name].shape for name in others]
        for pair in pairs:
            a, b = origin[pair.a], origin[pair.b]
            shapes.append(torch.Size([b.shape[0], a.shape[1]]) if self.space == "products" else b.shape)
        parts = [part.view(shape) for part, shape in zip(after.split([s.numel() for s in shapes]), shapes, strict=True)]
        combined = dict(zip(others, parts, strict=False))
        combined |= {name: uploads[0][name].clone() for name in uploads[0] if not uploads[0][name].is_floating_point()}
        kept = energy = 0.0
        for pair, part in zip(pairs, parts[len(others) :], strict=True):
            if self.space == "b":
                combined[pair.a], combined[pair.b] = origin[pair.a].clone(), part
                continue
            unit = torch.eye(part.shape[1], dtype=part.dtype, device=part.device)
            u, s, vh, whole = truncated_product(part[None], unit[None], rank=origin[pair.a].shape[0])
            combined[pair.a], combined[pair.b] = (s[0, :, None] * vh[0]).to(part.dtype), u[0].to(part.dtype)
            kept, energy = kept + float(s.square().sum()), energy + float(whole)
        if self.space == "products" and pairs:
            self.diagnostics["kept_energy"] = torch.tensor(kept / energy if energy > 0 else 1.0)
        return combined

    def rebased(self, names: Iterable[str]) -> list[str]:
        if self.space == "b":
            return []
        return [name for pair in lora_pairs(names) for name in (pair.a, pair.b)]
