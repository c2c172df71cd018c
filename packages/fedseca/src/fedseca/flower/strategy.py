"""The strategy: Flower's rounds with a robust rule in the place of the mean."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import Tensor

from fedseca.flower.clients import ClientNumbers, Reply, shares
from fedseca.flower.model import GlobalModel
from fedseca.flower.replies import ReplyFault, comparable, examples, record_tensors, sole_arrays, sole_metrics
from shared.checkpoints import load_tensors, require_same_tensors, save_tensors
from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.server import combine
from shared.federated.uploads import are_finite

log = logging.getLogger("flwr")


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
        self.clients = ClientNumbers(client_id_key, max_clients)
        self.model = GlobalModel()
        self.reference_fn = reference_fn
        self.state_file = None if state_file is None else Path(state_file)
        self.round = 0
        self.faults: dict[int, str] = {}

    @property
    def arrays(self) -> ArrayRecord:
        """The global model; empty before the first round."""
        return self.model.arrays

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
            require_same_tensors(self.model.tensors, record_tensors(initial_arrays), what="the state to go on from")
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
        if self.model.take(record_tensors(arrays)):
            self._set_up_rule()
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
        if not self.model.tensors:
            raise RunError("aggregate_train has no global model: configure_train must come before it")
        messages = list(replies)
        self.faults = {}
        candidates = self.clients.replies(messages, self.weighted_by_key, self._leave_out)
        origin, rows = self.model.flat(), self.model.vectors(len(candidates))
        good: list[Reply] = []
        counters: dict[str, np.ndarray] = {}
        for reply in candidates:
            try:
                uploaded = self.model.update(sole_arrays(reply.content), origin, rows[len(good)])
            except ReplyFault as fault:
                self._leave_out(reply.node, str(fault), client=reply.client)
                continue
            counters = counters or uploaded
            good.append(reply)
        self._require(len(good), len(messages))

        state = {name: tensor.clone() for name, tensor in self.model.tensors.items()}
        negative = combine(
            self.aggregator,
            self.model.layout,
            rows[: len(good)],
            state,
            origin=origin,
            weights=shares([reply.examples if self.weighting == "samples" else 1.0 for reply in good]),
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
        self.model.tensors = state
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
        if not self.model.tensors:
            raise RunError("the strategy has no state before configure_train")
        return {
            "round": torch.tensor(self.round),
            **self.clients.state_dict(),
            **self.model.state_dict(),
            **{f"rule.{name}": tensor for name, tensor in self.aggregator.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            UsageError: It is no state of a strategy, or of another model, way to know clients, or rule.
        """
        for name in ("round", "by_declared_id", "nodes", "arrays.0."):
            if not any(known.startswith(name) for known in state):
                raise UsageError(f"the state is not one of a RobustStrategy: {name!r} is missing")
        self.clients.load_state_dict(state)
        self.model.load_state_dict(state)
        self._set_up_rule()
        rule = {name.removeprefix("rule."): tensor for name, tensor in state.items() if name.startswith("rule.")}
        try:
            self.aggregator.load_state_dict(rule)
        except RuntimeError as error:
            raise UsageError(
                f"the state is not one of {type(self.aggregator).__name__}: {' '.join(str(error).split())}"
            ) from error
        self.round = int(state["round"])

    # ------------------------------------------------------------------ steps of a round

    def _set_up_rule(self) -> None:
        self.aggregator.setup(self.model.layout.size)
        if self.model.dtype == torch.float64:
            self.aggregator.double()

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

    def _reference(self, origin: Tensor) -> Tensor | None:
        """What the server's own clean data ask for."""
        if not self.aggregator.needs_reference or self.reference_fn is None:
            return None
        return self.model.reference(self.reference_fn(self.round + 1, self.arrays), origin)

    def _metrics(self, good: list[Reply]) -> MetricRecord:
        contents = comparable([reply.content for reply in good])
        metrics = MetricRecord(dict(self.train_metrics_aggr_fn(contents, self.weighted_by_key)))
        metrics["combined-clients"] = [reply.client for reply in good]
        metrics["left-out-nodes"] = sorted(self.faults)
        for name, value in self.aggregator.diagnostics.items():
            if value.ndim <= 1:
                metrics[f"rule-{name}"] = value.tolist()
        return metrics
