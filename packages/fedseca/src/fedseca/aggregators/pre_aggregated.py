"""A rule behind a chain of steps that change the uploads first."""

from collections.abc import Sequence
from itertools import accumulate, count

import torch
from torch import Tensor

from fedseca.blocks import finite_clients, peaks
from fedseca.pre_aggregation import PreAggregator
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


class PreAggregated(VectorAggregator):
    r"""``rule`` on what the steps ``pre`` make of the uploads, one after the other.

    Steps are those of :mod:`fedseca.pre_aggregation`: ``StaticClipping``, ``NNM``, ``Bucketing``. Uploads that hold NaN
    or infinity are left out before the first. Where a step changes the number of rows they lose the clients' ids and
    are numbered from 0. Weights of clients do not survive mixing; the rule counts rows equally.

    Args:
        pre: The steps.
        rule: Any rule; its state is the state of this one.

    Attributes:
        diagnostics: Those of the rule, about the rows that it saw, and ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: There is no step, no upload is finite, or a step or the rule refuses the number of rows.

    Example:
        >>> from fedseca.aggregators import CoordinateMedian
        >>> from fedseca.pre_aggregation import NNM, StaticClipping
        >>> rule = PreAggregated([StaticClipping(tau=10.0), NNM(b=1)], CoordinateMedian())
        >>> rule(torch.tensor([[0.0], [1.0], [4.0], [90.0]]))
        tensor([1.6667])
    """

    def __init__(self, pre: list[PreAggregator], rule: VectorAggregator) -> None:
        super().__init__()
        if not pre:
            raise UsageError("PreAggregated: pre must name at least one step, got none")
        self.pre = tuple(pre)
        self.rule = rule
        self.needs_reference = rule.needs_reference
        needed = [*(step.min_clients for step in pre), rule.min_clients]
        self.min_clients = next(
            k for k in count(1) if all(rows >= least for rows, least in zip(self._rows(pre, k), needed, strict=True))
        )

    @staticmethod
    def _rows(steps: Sequence[PreAggregator], clients: int) -> list[int]:
        """How many rows reach each step, and at last the rule."""
        return list(accumulate(steps, lambda rows, step: step.left(rows), initial=clients))

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate the state of the rule."""
        self.rule.setup(d, device)

    def check(self, clients: int) -> None:
        """Each step and the rule are asked about the number of rows that will reach them."""
        *before, last = self._rows(self.pre, clients)
        for step, rows in zip(self.pre, before, strict=True):
            step.check(rows)
        self.rule.check(last)

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
        kept = finite_clients(peaks(updates), "PreAggregated")
        self.check(len(kept))
        rows = updates if len(kept) == len(updates) else updates[kept]
        for step in self.pre:
            rows = step(rows, round=round)
        ids = [client_ids[k] for k in kept] if len(rows) == len(kept) else None
        update: Tensor = self.rule(rows, origin=origin, client_ids=ids, round=round, reference=reference)
        self.diagnostics = self.rule.diagnostics | {"dropped": torch.tensor(len(updates) - len(kept))}
        return update
