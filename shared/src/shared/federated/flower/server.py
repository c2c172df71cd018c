"""The server's side of Flower: finds the node of each client, sends out work and takes in what comes back."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from shared.errors import RunError, UsageError
from shared.federated.client_work import Failed, Outcome
from shared.federated.flower.asking import Question, ask
from shared.federated.flower.frozen import frozen_digest
from shared.federated.flower.messages import (
    PAYLOAD,
    REPORT,
    TASK,
    UNGREETED,
    content_of,
    one_line,
    read_answer,
    to_payload,
    work_order,
)
from shared.federated.flower.options import FlowerOptions

if TYPE_CHECKING:
    from shared.federated.server_work import ServerWork

LOOK = 0.5
"""Seconds between two looks for nodes at the start."""


class FlowerEngine:
    """Lets Flower's nodes train the clients of a round; see :class:`shared.federated.engine.Engine`.

    Client ``k`` is the node that was started with ``partition-id=k``. A node that comes back under another id, or comes
    late, takes part from the next round on.

    Args:
        options: How to deal with the nodes.
        config: The run's options as YAML, from which each node builds model and data; asked once, at the start.
        grid: The way to the nodes; may come later, before :meth:`start`.
    """

    name = "flower"
    reads_states = False
    patient = True
    """Whether a node that reports trouble at the start may be set right by its owner while the server waits."""

    def __init__(self, options: FlowerOptions, config: Callable[[], str], grid: Grid | None = None) -> None:
        self.options = options
        self.config = config
        self.grid = grid
        self.nodes: dict[int, int] = {}
        self._greeted: set[int] = set()
        self._clients: list[int] = []
        self._text = self._frozen = ""
        self._streams: Callable[[list[int]], bool]

    @property
    def client_ids(self) -> list[int]:
        return self._clients

    def choose_clients(self, module: "ServerWork") -> None:
        """Find out how many clients there are: what the options say, or the server's data."""
        count = self.options.clients
        ids = module.trainer.datamodule.client_ids if count is None else range(count)  # type: ignore[attr-defined]
        self._clients = list(ids)

    def start(self, module: "ServerWork") -> None:
        """Wait until the node of every client is there and has built the same model.

        Raises:
            UsageError: Two nodes have the same ``partition-id``.
            RunError: A node is missing, could not build its part or has other frozen weights.
        """
        self.choose_clients(module)
        self._text, self._frozen, self._streams = self.config(), frozen_digest(module), module.streams
        deadline = time.monotonic() + self.options.wait
        troubles: list[str] = []
        while missing := [client for client in self._clients if client not in self.nodes]:
            left = deadline - time.monotonic()
            if left <= 0 or (troubles and not self.patient):
                told = f" ({'; '.join(troubles)})" if troubles else ""
                raise RunError(
                    f"no node has partition-id {', '.join(map(str, missing))}, "
                    f"of {len(self._clients)} clients, after {self.options.wait - max(left, 0):.3g} s{told}"
                )
            before = len(self._greeted)
            for client, trouble in self._greet(left):
                if client is not None:
                    raise UsageError(trouble)
                troubles += [trouble] if trouble not in troubles else []
            if len(self._greeted) == before:
                time.sleep(min(LOOK, left))

    def outcomes(
        self, round: int, places: Mapping[int, int], state: Mapping[str, Tensor], last_rounds: Mapping[int, int]
    ) -> Iterator[tuple[int, Outcome]]:
        self._find_again(places.values())
        streams = self._streams(list(places.values()))
        payload = to_payload(state)
        timeout = self.options.timeout
        questions = (
            Question(position, self.nodes.get(client), work_order(round, last_rounds.get(client), payload))
            for position, client in places.items()
        )
        window = min(self.options.at_once or len(places), self.options.window if streams else len(places))
        for position, reply in ask(self._grid, "train", questions, timeout=timeout, window=window, in_order=streams):
            if reply is None and places[position] not in self.nodes:
                yield position, Failed("its node is not connected")
            else:
                outcome = read_answer(reply, state, len(payload[PAYLOAD].data), timeout)
                if isinstance(outcome, Failed) and str(outcome) == UNGREETED:
                    self._greeted.discard(self.nodes.pop(places[position]))
                yield position, outcome

    # ------------------------------------------------------------------ who is who

    @property
    def _grid(self) -> Grid:
        assert self.grid is not None, "the grid is set before the start"
        return self.grid

    def _find_again(self, clients: Iterable[int]) -> None:
        """Forget nodes that are gone, and greet new ones where a client lacks one."""
        there = set(self._grid.get_node_ids())
        self.nodes = {client: node for client, node in self.nodes.items() if node in there}
        self._greeted &= there
        if any(client not in self.nodes for client in clients):
            self._greet(self.options.timeout)

    def _greet(self, timeout: float) -> list[tuple[int | None, str]]:
        """Tell new nodes what the run is and learn whose data they have.

        Returns:
            What went wrong, each with the client where two nodes claim to be the same one.
        """
        new = [node for node in self._grid.get_node_ids() if node not in self._greeted]
        greeting = RecordDict({TASK: ConfigRecord({"config": self._text})})
        questions = [Question(i, node, greeting) for i, node in enumerate(new)]
        troubles: list[tuple[int | None, str]] = []
        window = self.options.at_once or max(1, len(new))
        for i, reply in ask(self._grid, "query", questions, timeout=timeout, window=window):
            try:
                client = self._introduced(content_of(reply, timeout))
            except Failed as error:
                troubles.append((None, f"node {new[i]}: {error}"))
                if reply is not None and not reply.has_error():
                    self._greeted.add(new[i])  # asked again, it would say the same; one whose process died may not
                continue
            if client in self.nodes:
                # Perhaps the same node after a restart, whose old self will be gone in the next round.
                troubles.append((client, f"partition-id must be another one for every node, got {client} twice"))
                continue
            self.nodes[client] = new[i]
            self._greeted.add(new[i])
        return troubles

    def _introduced(self, content: RecordDict) -> int:
        """The client that a node is.

        Raises:
            Failed: It is none, or cannot take part.
        """
        report = content.get(REPORT)
        if not isinstance(report, ConfigRecord):
            raise Failed("unreadable answer")
        if "failure" in report:
            raise Failed(one_line(str(report["failure"])))
        client = report.get("partition-id")
        if not isinstance(client, int) or client not in self._clients:
            raise Failed(f"partition-id must be one of {self._clients[0]} .. {self._clients[-1]}, got {client!r}")
        if report.get("frozen") != self._frozen:
            raise Failed(f"the weights that nobody trains differ from the server's at client {client} (model.init)")
        return client
