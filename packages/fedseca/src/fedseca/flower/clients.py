"""Who is who: the numbers by which a rule knows clients, those of the nodes or those that clients say themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import Message, MetricRecord, RecordDict
from torch import Tensor

from fedseca.flower.replies import ReplyFault, declared_id, examples, sole_metrics
from shared.errors import UsageError

LeaveOut = Callable[[int, str], None]
"""Told the id of a node whose reply does not count, and the reason."""


@dataclass
class Reply:
    """A reply whose arrays have not been looked at yet."""

    node: int
    client: int
    examples: float
    content: RecordDict


def shares(counts: Sequence[float]) -> Tensor:
    """``(K,)`` what clients that count so much weigh, summing to one, in float64."""
    # Divided first: a sum of what clients claim could overflow.
    weights = torch.tensor(counts, dtype=torch.float64) / max(counts)
    return weights / weights.sum()


@dataclass
class ClientNumbers:
    """Numbers that stay with clients from round to round; see :mod:`fedseca.flower`.

    Args:
        key: Metric by which clients tell their number; ``None`` goes by node id.
        limit: Numbers that clients tell must be below.

    Attributes:
        declared: Whether clients tell their numbers; ``None`` until the first round shows it.
        nodes: Node ids in the order in which they appeared, where they do not.
    """

    key: str | None
    limit: int
    declared: bool | None = field(default=None, init=False)
    nodes: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.key is None:
            self.declared = False

    def replies(self, messages: Sequence[Message], weighted_by: str, leave_out: LeaveOut) -> list[Reply]:
        """The replies whose metrics are in order, sorted by the numbers of their clients.

        Args:
            messages: What came back in a round.
            weighted_by: Metric with the number of examples.
            leave_out: Called for every other one.
        """
        told: dict[int, tuple[MetricRecord, float, RecordDict]] = {}
        for message in messages:
            node = message.metadata.src_node_id
            try:
                metrics = sole_metrics(message)
                told[node] = metrics, examples(metrics, weighted_by), message.content
            except ReplyFault as fault:
                leave_out(node, str(fault))
        numbers = self.of({node: metrics for node, (metrics, _, _) in told.items()}, leave_out)
        found = [Reply(node, client, *told[node][1:]) for node, client in numbers.items()]
        return sorted(found, key=lambda reply: reply.client)

    def of(self, told: Mapping[int, MetricRecord], leave_out: LeaveOut) -> dict[int, int]:
        """The number of the client behind each node, by the metrics of its reply."""
        if self.declared is None and told:
            # Decided by the majority and once: a single client must not make all others nameless.
            self.declared = 2 * sum(self.key in metrics for metrics in told.values()) > len(told)
        if self.key is None or not self.declared:
            self.nodes += sorted(told.keys() - set(self.nodes))
            return {node: self.nodes.index(node) for node in told}
        numbers = {}
        for node, metrics in told.items():
            try:
                numbers[node] = declared_id(metrics, self.key, self.limit)
            except ReplyFault as fault:
                leave_out(node, str(fault))
        claims = list(numbers.values())
        for node, client in list(numbers.items()):
            if claims.count(client) > 1:
                leave_out(node, f"{claims.count(client)} replies have {self.key} {client}")
                del numbers[node]
        return numbers

    def state_dict(self) -> dict[str, Tensor]:
        """How clients are known, and the ids of the nodes."""
        return {
            "by_declared_id": torch.tensor(-1 if self.declared is None else int(self.declared)),
            # Node ids are unsigned numbers of 64 bits.
            "nodes": torch.from_numpy(np.array(self.nodes, dtype=np.uint64).view(np.int64)),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            UsageError: There clients told their numbers, and here no metric is named for it.
        """
        mode = int(state["by_declared_id"])
        if mode == 1 and self.key is None:
            raise UsageError("the state knows clients by the ids that they send: client_id_key must name it, got None")
        self.declared = None if mode == -1 and self.key else mode == 1
        self.nodes = state["nodes"].numpy().view(np.uint64).tolist()
