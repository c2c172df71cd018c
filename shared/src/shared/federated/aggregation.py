"""Contracts of the server rules: how client uploads become one update of the global model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import UsageError


class VectorAggregator(nn.Module):
    r"""A server rule on flat pseudo-gradients :math:`g_k = W - W_k`.

    The server keeps the global vector :math:`W` of ``d`` coordinates; client ``k`` uploads :math:`W_k`. A rule
    combines the rows :math:`g_k` into one vector :math:`m`, and the server moves to :math:`W - m`.

    Subclasses implement :meth:`combine`. State that lives across rounds (momentum, history) is kept in buffers that
    :meth:`setup` allocates, so that it travels through ``state_dict``. Inputs are never modified.

    Attributes:
        min_clients: The least number of uploads with which the rule has a meaning.
        diagnostics: What the last call wishes to log: name to tensor.
        streams: Whether the rule is the weighted mean and nothing else, so that uploads can be added up one by one.
    """

    min_clients: int = 1
    needs_reference: bool = False
    streams: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.diagnostics: dict[str, Tensor] = {}

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate state buffers for vectors of ``d`` coordinates; called before the first round and before loading."""

    def check(self, clients: int) -> None:
        """Refuse a number of uploads with which the rule has no meaning; rules with more to say extend it.

        Raises:
            UsageError: Fewer than ``min_clients``.
        """
        if clients < self.min_clients:
            raise UsageError(f"{type(self).__name__} needs at least {self.min_clients} clients, got {clients}")

    def forward(
        self,
        updates: Tensor,
        *,
        origin: Tensor | None = None,
        weights: Tensor | None = None,
        client_ids: Sequence[int] | None = None,
        round: int = 0,
        reference: Tensor | None = None,
    ) -> Tensor:
        """Combine the uploads of one round.

        Args:
            updates: ``(K, d)`` floating point, row ``k`` is :math:`W - W_k`; rows are sorted by client id.
            origin: ``(d,)`` the global vector ``W`` before the round, for rules that are not translation invariant.
            weights: ``(K,)`` non-negative, summing to one; ``None`` means equal. Most robust rules ignore it.
            client_ids: The ``K`` ids in ascending order; ``None`` means ``0 .. K-1``.
            round: Index of the round, from 0.
            reference: ``(d,)`` an update that the server computed on clean data, for rules that need one.

        Returns:
            ``(d,)`` the update to subtract from ``W``.

        Raises:
            UsageError: The matrix has the wrong shape or type, or fewer than ``min_clients`` rows.
        """
        if updates.ndim != 2 or not updates.is_floating_point():
            raise UsageError(
                f"{type(self).__name__}: updates must be a (clients, coordinates) matrix of floating point numbers, "
                f"got shape {tuple(updates.shape)} of {updates.dtype}"
            )
        k = updates.shape[0]
        self.check(k)
        if self.needs_reference and reference is None:
            raise UsageError(f"{type(self).__name__} needs a reference update computed on clean data, got none")
        ids = tuple(range(k)) if client_ids is None else tuple(client_ids)
        if list(ids) != sorted(set(ids)) or len(ids) != k:
            raise UsageError(
                f"{type(self).__name__}: client_ids must be {k} distinct ids in ascending order, got {ids}"
            )
        if weights is None:
            weights = torch.full((k,), 1 / k, dtype=torch.float64)
        self.diagnostics = {}
        with torch.no_grad():
            return self.combine(
                updates, origin=origin, weights=weights, client_ids=ids, round=round, reference=reference
            )

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
        """The rule itself, on checked input; see :meth:`forward`."""
        raise NotImplementedError


class StateRule(nn.Module):
    """A server rule on named tensors, for methods whose combination is not coordinate-wise (LoRA products, say).

    Subclasses implement ``forward``. As with vector rules, state lives in buffers and inputs are never modified.
    """

    min_clients: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.diagnostics: dict[str, Tensor] = {}

    def setup(self, template: Mapping[str, Tensor]) -> None:
        """Allocate state for tensors shaped like ``template``; called before the first round and before loading."""

    def check(self, uploads: int, clients: int | None = None) -> None:
        """Refuse a federation with which the rule has no meaning; rules with more to say extend it.

        Args:
            uploads: How many clients take part in a round.
            clients: How many there are in all; by default all take part.

        Raises:
            UsageError: Fewer uploads than ``min_clients``.
        """
        if uploads < self.min_clients:
            raise UsageError(f"{type(self).__name__} needs at least {self.min_clients} clients, got {uploads}")

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
        """Combine uploads (new values, not differences), sorted by client id, into the new global tensors."""
        raise NotImplementedError
