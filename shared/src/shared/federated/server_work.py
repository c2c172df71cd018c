"""The server's part of a round: what clients count, how uploads are combined, and whether there are enough."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.client_work import ClientWork
from shared.federated.reference import needs_reference, reference_update
from shared.federated.rounds import participants_per_round
from shared.federated.seeds import derived_generator
from shared.federated.server import combine, replace_hostile
from shared.federated.streaming import STREAMED_FROM, StreamedMean


def published_weights(data: LightningDataModule) -> dict[int, float]:
    """What each client counts according to the publication that the data come from.

    Raises:
        UsageError: It gives no weights, or some that are not positive.
    """
    weights = getattr(data, "published_weights", None)
    if weights is None:
        raise UsageError(
            f"model.weighting can be published only where the data have published weights, "
            f"{getattr(data, 'data_name', type(data).__name__)} have none"
        )
    if not all(math.isfinite(w) and w > 0 for w in weights):
        raise UsageError(f"the data's published weights must be positive, got {list(weights)}")
    return dict(zip(data.client_ids, weights, strict=True))  # type: ignore[attr-defined]


class ServerWork(ClientWork):
    """Combines what the clients of a round upload into the new global model.

    Attributes:
        min_clients: Fewest good uploads with which a round still counts.
        participation: Share of the clients that take part in a round.
        weighting: What clients count by.
    """

    min_clients: int
    participation: float
    weighting: Literal["equal", "samples", "published"]

    def check_clients(self, client_ids: Sequence[int]) -> None:
        """Refuse a federation with which the attack or the rule has no meaning.

        Raises:
            UsageError: A hostile client is none of the clients, they are no minority, a round has too few clients to
                count or for the rule, or the attack can do nothing against the rule.
        """
        clients = len(client_ids)
        unknown = [k for k in self.byzantine if k not in client_ids]
        if unknown:
            raise UsageError(f"model.byzantine must name clients of 0 .. {clients - 1}, got {unknown[0]}")
        if self.byzantine and 2 * len(self.byzantine) >= clients:
            raise UsageError(
                f"model.byzantine must leave more honest than hostile clients, "
                f"got {len(self.byzantine)} hostile of {clients}"
            )
        uploads = self.participants(clients)
        if self.min_clients > uploads:
            raise UsageError(
                f"model.min_clients must be at most the {uploads} clients of a round, got {self.min_clients}"
            )
        if isinstance(self.aggregator, VectorAggregator):
            self.aggregator.check(uploads)
        else:
            self.aggregator.check(uploads, clients)
        if self.byzantine:
            self.attack.check(self.aggregator)

    def participants(self, clients: int) -> int:
        """How many of ``clients`` take part in a round."""
        return participants_per_round(clients, self.participation)

    def _combine(
        self,
        round: int,
        participants: list[int],
        state: dict[str, Tensor],
        origin: Tensor,
        rows: Tensor,
        reports: dict[int, dict[str, Any]],
        failures: dict[int, str],
        good: list[int],
        mean: StreamedMean | None = None,
    ) -> None:
        """Let the attack replace uploads and the rule combine them into the new global ``state``.

        What was added up to a ``mean`` reaches the rule as one upload that has all the weight.
        """
        updates = rows if mean is not None or len(good) == len(participants) else rows[good]
        ids = [participants[i] for i in good]
        hostile = [] if mean is not None else [i for i, k in enumerate(ids) if k in self.byzantine]
        if hostile:
            head = self.layout.head
            broken = replace_hostile(
                self.attack,
                updates[:, :head],
                hostile,
                ids=ids,
                origin=origin[:head],
                round=round,
                aggregator=self.aggregator,
                generator=derived_generator(self.seed, "attack", round),
            )
            failures.update({ids[i]: "NaN or infinite values" for i in broken})
            if broken:
                kept = [i for i in range(len(ids)) if i not in broken]
                updates, ids, good = updates[kept], [ids[i] for i in kept], [good[i] for i in kept]
                self._require(len(good), participants, failures)

        if mean is not None:
            rows[0].copy_(mean.value())
            updates, ids, good = rows, ids[:1], good[:1]
        weights = self._weights(ids, [reports[i]["samples"] for i in good])
        reference = self._reference(round, state, origin) if needs_reference(self.aggregator) else None
        self._scratch["negative_variances"] = combine(
            self.aggregator,
            self.layout,
            updates,
            state,
            origin=origin,
            weights=weights,
            ids=ids,
            round=round,
            counters=reports[good[0]]["counters"],
            reference=reference,
        )
        self._scratch["combined"] = [participants[i] for i in good]

    def _weights(self, ids: list[int], samples: list[int]) -> Tensor:
        """``(K,)`` what the clients of a round count, summing to one."""
        if self.weighting == "equal":
            return torch.full((len(ids),), 1 / len(ids), dtype=torch.float64)
        counts = [self.weight_of(client, count) for client, count in zip(ids, samples, strict=True)]
        weights = torch.tensor(counts, dtype=torch.float64)
        return weights / weights.sum()

    def weight_of(self, client: int, samples: int) -> float:
        if self.weighting == "samples":
            return samples
        return 1 if self.weighting == "equal" else self._scratch["published"][client]

    def streams(self, participants: list[int]) -> bool:
        """Whether the uploads of a round are added up one by one in place of held together.

        So it is where they would take :data:`~shared.federated.streaming.STREAMED_FROM` bytes or more, the rule is a
        weighted mean, no participant is hostile and one process runs this. No engine makes a difference, so that the
        bits are the same in all.
        """
        rule = self.aggregator
        held = len(participants) * self.layout.size * torch.float32.itemsize
        return (
            isinstance(rule, VectorAggregator)
            and rule.streams
            and held >= STREAMED_FROM
            and self.trainer.world_size == 1
            and not set(participants) & set(self._hostile)
        )

    def _working_memory(self, participants: int, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The global vector and room for a ``(K, d)`` matrix of updates; the memory is kept from round to round."""
        buffer = self._scratch.get("buffer")
        if buffer is None or len(buffer) <= participants or buffer.device != self.device:
            buffer = torch.empty(1 + participants, self.layout.size, device=self.device)
            self._scratch["buffer"] = buffer
        return self.layout.flatten(state, out=buffer[0]), buffer[1 : 1 + participants]

    @property
    def _hostile(self) -> tuple[int, ...]:
        return self.byzantine if self.regime == "federated" else ()

    def _reference(self, round: int, state: Mapping[str, Tensor], origin: Tensor) -> Tensor:
        """What the server's own clean data ask for."""
        return reference_update(
            self._worker(),
            self.trainer.datamodule,  # type: ignore[attr-defined]
            self.client,
            self.layout,
            state,
            origin,
            seed=self.seed,
            round=round,
            to_device=self.transfer_batch_to_own_device,
            forward_context=self.trainer.precision_plugin.forward_context,
        )

    def _require(self, good: int, participants: list[int], failures: dict[int, str]) -> None:
        """Stop with one sentence if too few uploads are left."""
        needed = max(self.min_clients, self.aggregator.min_clients if self.regime == "federated" else 1)
        if good < needed:
            told = "; ".join(f"client {client}: {reason}" for client, reason in failures.items())
            raise RunError(
                f"round {self.current_epoch} has {good} good uploads of {len(participants)}, needs {needed} ({told})"
            )
