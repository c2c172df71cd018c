r"""Every rule of this package as a strategy of Flower's Message API, for any Flower project.

.. code-block:: python

    strategy = RobustStrategy(FedSECA(), min_clients=5, state_file="server.safetensors")
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=20)

Clients stay as they are: they upload weights in one ArrayRecord and ``num-examples`` in one MetricRecord.

**Who is who.** Rules break ties by client, draw lots in the order of clients, and some remember each client, so the
rows of a round are sorted by a number that stays with the client. Where most clients of the first round send the metric
``partition-id``, that is their number for the whole run: a simulation gives nodes new random ids every time, so only
with it do two runs agree bit for bit. It is what a client says of itself. Two replies of a round with the same id are
both left out, so a liar removes one other client and himself. Where clients may lie and the rule remembers them, set
``client_id_key=None``: node ids are given out by the SuperLink, which can authenticate nodes. Clients are then numbered
in the order in which they first appear, those of one round by node id, and the numbers are kept in the state.

**Integer arrays** (BatchNorm's step counters) are beyond a rule: they are taken from the good client with the lowest
number. **Metrics** are Flower's plain weighted means of what clients say, whatever the rule; so is the weighting by
``samples``, and few rules look at it.

**Differential privacy.** Flower's ``LocalDpMod`` clips a client's update to length :math:`C` and adds noise of standard
deviation :math:`\sigma = s \sqrt{2 \ln(1.25 / \delta)} / \epsilon` to every number of the upload before it leaves the
client. Every rule works on such uploads, and no rule weakens the guarantee, which holds for each upload by itself
(what the server does afterwards is post-processing; the sum over rounds is for you to account). But robust rules tell
friend from foe by how honest uploads agree, and the noise has length :math:`\sigma \sqrt d` against the :math:`C` of an
update: a hostile client hides in it, honest signs agree half of the time, and the largest entries, which
sparsification keeps, are the noisiest ones. The mean divides the noise by :math:`\sqrt K`; a rule that returns one
upload (Krum) not at all. So robustness needs :math:`\sigma \sqrt d` well below :math:`C`, or few coordinates. A hostile
client does not run the mod: what it sends is not clipped. In Flower 1.41 the mod has gaps (seen, and tested here):
arrays *without dimensions* (a learned temperature, BatchNorm's counters) go out unclipped and without noise, so give
them a dimension; on integer arrays with dimensions, and on an update of exactly zero, the client raises and is left
out. Give the mod to ``@app.train(mods=[…])``, as an answer to an evaluation has no arrays and would be refused.

Flower's wrappers of strategies (``DifferentialPrivacyServerSideFixedClipping`` and its kin) calibrate their noise to
the mean, which one client moves by at most :math:`C / K`. It moves a median, Krum or an elected sign by more: around a
robust rule these wrappers promise what they do not hold. Secure aggregation shows the server the sum alone; every rule
but the mean needs the single uploads.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg, Result
except ImportError as error:
    raise ImportError(
        "fedseca.flower needs Flower, version 1.41 or newer (pip install fedseca[flower])", name=error.name
    ) from error

import numpy as np
import torch
from torch import Tensor

from fedseca.flower_replies import (
    ReplyFault,
    comparable,
    declared_id,
    examples,
    read_arrays,
    record_tensors,
    sole_arrays,
    sole_metrics,
)
from shared.checkpoints import load_tensors, require_same_tensors, save_tensors
from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.server import combine
from shared.federated.uploads import are_finite, is_finite
from shared.federated.vectors import VectorLayout

log = logging.getLogger("flwr")


@dataclass
class Reply:
    """A reply whose arrays have not been looked at yet."""

    node: int
    client: int
    examples: float
    content: RecordDict


class RobustStrategy(FedAvg):
    """A federation of Flower under a robust rule.

    One round: the rule combines the rows :math:`W - W_k`, where :math:`W` is the global model that was sent and
    :math:`W_k` the upload of client ``k``, floating point arrays one after the other in the order of the server's
    record, and the server moves to :math:`W` minus the result. The vector is float64 where an array is, else float32;
    every array keeps its type. See the module for who is who, integer arrays and differential privacy.

    Replies that carry an error, no or several ArrayRecords or MetricRecords, missing or additional arrays, another
    shape or type, NaN or infinite values, or a number of examples that is not positive are left out. Each is named with
    its reason in a line of the log and in ``faults``, and its node in the round's metrics.

    The metrics of a round are those of Flower's FedAvg over the good replies (those that all of them send), and

    - ``combined-clients``: the numbers of the clients that were combined, in the order of the rows;
    - ``left-out-nodes``: the node ids of those that were not;
    - ``rule-NAME``: each number or list of numbers among the rule's ``diagnostics``.

    Args:
        aggregator: The rule. It keeps its state (momentum, history) here; do not share it between strategies.
        weighting: ``equal``, or ``samples``: clients count by the examples that they report, for rules that look at it.
        min_clients: Fewest good replies with which a round still counts; the rule may need more.
        client_id_key: Metric by which clients tell who they are; ``None`` goes by node id. See the module.
        max_clients: Ids that clients tell must be below; it bounds what a liar can make a rule remember.
        reference_fn: Trains on the server's own clean data, for rules that need a reference (``FLTrust``): gets the
            round, from 1, and the global arrays, and returns the trained arrays.
        state_file: Where the state is kept (safetensors), written anew after every round; a strategy that finds it
            there goes on from it.
        **fedavg: Options of Flower's FedAvg: ``fraction_train``, ``min_available_nodes``, ``weighted_by_key`` …. By
            default ``min_train_nodes`` is as many as a round needs, and at least 2.

    Attributes:
        round: Rounds that are done.
        faults: Who was left out of the last round and why, by node id.

    Raises:
        UsageError: An option is out of range, or the rule needs a reference and there is no ``reference_fn``.
    """

    def __init__(
        self,
        aggregator: VectorAggregator,
        *,
        weighting: Literal["equal", "samples"] = "equal",
        min_clients: int = 1,
        client_id_key: str | None = "partition-id",
        max_clients: int = 1024,
        reference_fn: Callable[[int, ArrayRecord], ArrayRecord] | None = None,
        state_file: str | Path | None = None,
        **fedavg: Any,
    ) -> None:
        if not isinstance(aggregator, VectorAggregator):
            raise UsageError(f"aggregator must be a VectorAggregator, got {type(aggregator).__name__}")
        if weighting not in ("equal", "samples"):
            raise UsageError(f"weighting must be equal or samples, got {weighting!r}")
        for name, value in (("min_clients", min_clients), ("max_clients", max_clients)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if aggregator.needs_reference and reference_fn is None:
            raise UsageError(f"{type(aggregator).__name__} needs a reference: reference_fn must be given, got None")
        self.needed = max(min_clients, aggregator.min_clients)
        chosen = fedavg.setdefault("min_train_nodes", max(2, self.needed))
        if chosen < self.needed and fedavg.get("fraction_train") != 0:
            raise UsageError(f"min_train_nodes must be at least the {self.needed} that a round needs, got {chosen}")
        super().__init__(**fedavg)
        self.aggregator = aggregator
        self.weighting = weighting
        self.client_id_key = client_id_key
        self.max_clients = max_clients
        self.reference_fn = reference_fn
        self.state_file = None if state_file is None else Path(state_file)
        self.round = 0
        self.faults: dict[int, str] = {}
        self._by_declared_id: bool | None = None if client_id_key else False
        self._nodes: list[int] = []
        self._state: dict[str, Tensor] = {}

    @property
    def arrays(self) -> ArrayRecord:
        """The global model; empty before the first round."""
        return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in self._state.items()})

    def summary(self) -> None:
        """Log the settings."""
        log.info("\t├──> Robust rule: %s, clients count: %s", type(self.aggregator).__name__, self.weighting)
        log.info("\t│\t└──Fewest good replies: %d", self.needed)
        super().summary()

    # ------------------------------------------------------------------ the run

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *args: Any, **options: Any) -> Result:
        """Run until ``num_rounds`` rounds are done in all, those before a restart included.

        Args:
            grid: Reaches the nodes.
            initial_arrays: The global model before the first round; later it only tells names, shapes and types.
            num_rounds: Rounds in all.
            *args: As for every strategy of Flower.
            **options: As for every strategy of Flower. ``evaluate_fn`` gets the round counted over all starts.

        Returns:
            The global model, and the metrics of the rounds of this start by their number among all rounds.

        Raises:
            UsageError: ``state_file`` belongs to another model or rule, or the rule has no meaning for these clients.
            RunError: A round has too few good replies, or its result is not finite.
        """
        if not self.round and self.state_file is not None and self.state_file.is_file():
            self.load_state_dict(load_tensors(self.state_file, "state_file"))
            log.info("%s: round %d of %d is done", self.state_file, self.round, num_rounds)
        done = self.round
        if done:
            require_same_tensors(self._state, record_tensors(initial_arrays), what="the state to go on from")
            initial_arrays = self.arrays
        if evaluate_fn := options.get("evaluate_fn"):
            options["evaluate_fn"] = lambda round, arrays: evaluate_fn(done + round, arrays)
        result = super().start(grid, initial_arrays, max(0, num_rounds - done), *args, **options)
        # Flower's own result is empty where no round was left.
        result.arrays = result.arrays or initial_arrays
        for part in ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"):
            setattr(result, part, {done + round: metrics for round, metrics in getattr(result, part).items()})
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg; remembers what is sent. Clients get ``server-round`` counted over all starts."""
        self._begin(record_tensors(arrays))
        return super().configure_train(self.round + 1, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg, with ``server-round`` counted over all starts."""
        return super().configure_evaluate(self.round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine the good replies of a round into the new global model; see the class.

        Raises:
            RunError: Nothing was sent before, too few replies are good, or the result is not finite.
            UsageError: The rule has no meaning for these clients.
        """
        if self.fraction_train == 0:
            return None, None
        if not self._state:
            raise RunError("aggregate_train has no global model: configure_train must come before it")
        messages = list(replies)
        self.faults = {}
        candidates = self._candidates(messages)
        origin = self.layout.flatten(self._state, out=self._vectors())
        rows = self._vectors(len(candidates))
        good: list[Reply] = []
        counters: dict[str, np.ndarray] = {}
        for reply in candidates:
            try:
                uploaded = self._read(reply, origin, rows[len(good)])
            except ReplyFault as fault:
                self._leave_out(reply.node, str(fault), client=reply.client)
                continue
            counters = counters or uploaded
            good.append(reply)
        self._require(len(good), len(messages))

        state = {name: tensor.clone() for name, tensor in self._state.items()}
        negative = combine(
            self.aggregator,
            self.layout,
            rows[: len(good)],
            state,
            origin=origin,
            weights=self._weights(good),
            ids=[reply.client for reply in good],
            round=self.round,
            counters=counters,
            reference=self._reference(origin),
        )
        if negative:
            log.warning("round %d: %d running variances came out negative and were set to 0", self.round + 1, negative)
        if not are_finite(state.values()):
            raise RunError(
                f"round {self.round + 1}: {type(self.aggregator).__name__} gives a global model that is not finite"
            )
        self._state = state
        self.round += 1
        if self.state_file is not None:
            save_tensors(self.state_file, self.state_dict())
        return self.arrays, self._metrics(good)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The metrics of the good replies as FedAvg combines them; ``None`` and a line in the log if there is none."""
        contents = []
        for message in replies:
            try:
                examples(sole_metrics(message), self.weighted_by_key)
                contents.append(message.content)
            except ReplyFault as fault:
                node = message.metadata.src_node_id
                log.warning("round %d: node %d is left out of the evaluation: %s", self.round, node, fault)
        if contents:
            return self.evaluate_metrics_aggr_fn(comparable(contents), self.weighted_by_key)
        if self.fraction_evaluate:
            log.warning("round %d: nobody evaluated the global model", self.round)
        return None

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a restarted server needs: global model, round, numbers of the nodes, state of the rule.

        Raises:
            RunError: No model has come yet.
        """
        if not self._state:
            raise RunError("the strategy has no state before configure_train")
        mode = -1 if self._by_declared_id is None else int(self._by_declared_id)
        return {
            "round": torch.tensor(self.round),
            "by_declared_id": torch.tensor(mode),
            # Node ids are unsigned numbers of 64 bits.
            "nodes": torch.from_numpy(np.array(self._nodes, dtype=np.uint64).view(np.int64)),
            # A file does not keep the order of its tensors, and the order is that of the vector.
            **{f"arrays.{place}.{name}": tensor for place, (name, tensor) in enumerate(self._state.items())},
            **{f"rule.{name}": tensor for name, tensor in self.aggregator.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            UsageError: It is no state of a strategy, or of another model, way to know clients, or rule.
        """
        missing = [name for name in ("round", "by_declared_id", "nodes", "arrays.0.") if not _named(state, name)]
        if missing:
            raise UsageError(f"the state is not one of a RobustStrategy: {missing[0]!r} is missing")
        found = [match for name in state if (match := re.fullmatch(r"arrays\.(\d+)\.(.*)", name, re.DOTALL))]
        found.sort(key=lambda match: int(match[1]))
        mode = int(state["by_declared_id"])
        if mode == 1 and self.client_id_key is None:
            raise UsageError("the state knows clients by the ids that they send: client_id_key must name it, got None")
        self._state = {}
        self._begin({match[2]: state[match[0]].clone() for match in found})
        try:
            self.aggregator.load_state_dict({key.removeprefix("rule."): state[key] for key in _named(state, "rule.")})
        except RuntimeError as error:
            raise UsageError(
                f"the state is not one of {type(self.aggregator).__name__}: {' '.join(str(error).split())}"
            ) from error
        self.round = int(state["round"])
        self._by_declared_id = None if mode == -1 and self.client_id_key else mode == 1
        self._nodes = state["nodes"].numpy().view(np.uint64).tolist()

    # ------------------------------------------------------------------ steps of a round

    def _begin(self, tensors: dict[str, Tensor]) -> None:
        """Take ``tensors`` for the global model; the first ones say what the vector looks like."""
        if not are_finite(tensors.values()):
            raise UsageError("the global model must be finite, got NaN or infinite values")
        if not self._state:
            self.layout = VectorLayout(tensors)
            double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
            self.dtype = torch.float64 if double else torch.float32
            self.aggregator.setup(self.layout.size)
            if double:
                self.aggregator.double()
        else:
            require_same_tensors(tensors, self._state, what="the model of this round")
            tensors = {name: tensors[name] for name in self._state}
        self._state = tensors

    def _vectors(self, *rows: int) -> Tensor:
        return torch.empty(*rows, self.layout.size, dtype=self.dtype)

    def _candidates(self, messages: list[Message]) -> list[Reply]:
        """The replies whose metrics are in order, sorted by the numbers of their clients."""
        told: dict[int, tuple[MetricRecord, float, RecordDict]] = {}
        for message in messages:
            node = message.metadata.src_node_id
            try:
                metrics = sole_metrics(message)
                told[node] = metrics, examples(metrics, self.weighted_by_key), message.content
            except ReplyFault as fault:
                self._leave_out(node, str(fault))
        numbers = self._numbers({node: metrics for node, (metrics, _, _) in told.items()})
        found = [Reply(node, client, *told[node][1:]) for node, client in numbers.items()]
        return sorted(found, key=lambda reply: reply.client)

    def _numbers(self, told: Mapping[int, MetricRecord]) -> dict[int, int]:
        """The number of the client behind each node."""
        key = self.client_id_key
        if self._by_declared_id is None and told:
            # Decided by the majority and once: a single client must not make all others nameless.
            self._by_declared_id = 2 * sum(key in metrics for metrics in told.values()) > len(told)
        if key is None or not self._by_declared_id:
            self._nodes += sorted(told.keys() - set(self._nodes))
            return {node: self._nodes.index(node) for node in told}
        numbers = {}
        for node, metrics in told.items():
            try:
                numbers[node] = declared_id(metrics, key, self.max_clients)
            except ReplyFault as fault:
                self._leave_out(node, str(fault))
        claims = list(numbers.values())
        for node, client in list(numbers.items()):
            if claims.count(client) > 1:
                self._leave_out(node, f"{claims.count(client)} replies have {key} {client}")
                del numbers[node]
        return numbers

    def _read(self, reply: Reply, origin: Tensor, row: Tensor) -> dict[str, np.ndarray]:
        """Write the client's update into ``row`` and return its integer arrays."""
        arrays = read_arrays(sole_arrays(reply.content), self._state)
        self.layout.difference(origin, {name: torch.from_numpy(array) for name, array in arrays.items()}, out=row)
        if not is_finite(row):
            raise ReplyFault("NaN or infinite values")
        return {name: array for name, array in arrays.items() if not self._state[name].is_floating_point()}

    def _leave_out(self, node: int, reason: str, client: int | None = None) -> None:
        self.faults[node] = reason
        who = f"node {node}" if client is None else f"client {client} (node {node})"
        log.warning("round %d: %s is left out: %s", self.round + 1, who, reason)

    def _require(self, good: int, replies: int) -> None:
        """Stop with one sentence if too few replies are left."""
        try:
            self.aggregator.check(good)
            reason = f"needs {self.needed}" if good < self.needed else ""
        except UsageError as error:
            reason = str(error)
        if reason:
            told = "; ".join(f"node {node}: {fault}" for node, fault in self.faults.items()) or "none was left out"
            raise RunError(f"round {self.round + 1} has {good} good replies of {replies}: {reason} ({told})")

    def _weights(self, good: list[Reply]) -> Tensor:
        """``(K,)`` what the clients count, summing to one."""
        counts = [reply.examples if self.weighting == "samples" else 1.0 for reply in good]
        # Divided first: a sum of what clients claim could overflow.
        weights = torch.tensor(counts, dtype=torch.float64) / max(counts)
        return weights / weights.sum()

    def _reference(self, origin: Tensor) -> Tensor | None:
        """What the server's own clean data ask for."""
        if not self.aggregator.needs_reference or self.reference_fn is None:
            return None
        trained = record_tensors(self.reference_fn(self.round + 1, self.arrays))
        require_same_tensors(trained, self._state, what="what reference_fn returns")
        return self.layout.difference(origin, trained, out=self._vectors())

    def _metrics(self, good: list[Reply]) -> MetricRecord:
        contents = comparable([reply.content for reply in good])
        metrics = MetricRecord(dict(self.train_metrics_aggr_fn(contents, self.weighted_by_key)))
        metrics["combined-clients"] = [reply.client for reply in good]
        metrics["left-out-nodes"] = sorted(self.faults)
        for name, value in self.aggregator.diagnostics.items():
            if value.ndim <= 1:
                metrics[f"rule-{name}"] = value.tolist()
        return metrics


def _named(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name for name in state if name.startswith(prefix)]
