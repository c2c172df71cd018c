"""A grid without Flower's processes: every node answers at once, in this process, through the real ClientApp."""

from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from shared.federated.flower.client import Elsewhere, NodeWork, client_app
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.server import FlowerEngine
from shared.federated.module import FederatedModule

FIRST_NODE = 100
Change = Callable[[int, int, Message], Message | None]
"""What becomes of an answer: by round, client and answer; ``None``: it never comes."""


class LoopGrid(Grid):
    """Nodes ``100 + k`` with ``partition-id=k``.

    Attributes:
        change: What becomes of the answers to work orders.
        most_open: Most questions that were open at once.
        bytes: Client to bytes of arrays sent and received.
    """

    def __init__(self, app: ClientApp, clients: int, config: dict[int, dict[str, Any]] | None = None) -> None:
        self.app = app
        self.contexts = {FIRST_NODE + k: self.context(k, clients, (config or {}).get(k, {})) for k in range(clients)}
        self.change: Change = lambda round, client, answer: answer
        self.answers: dict[str, Message | None] = {}
        self.names = count()
        self.most_open = 0
        self.sent: list[tuple[int, str, Message]] = []

    @staticmethod
    def context(client: int, clients: int, extra: dict[str, Any]) -> Context:
        config = {"partition-id": client, "num-partitions": clients} | extra
        return Context(1, FIRST_NODE + client, config, RecordDict(), {})

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *arguments: Any, **options: Any) -> Any: ...

    def send_and_receive(self, *arguments: Any, **options: Any) -> Any: ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = str(next(self.names))
            node = message.metadata.dst_node_id
            if node not in self.contexts:
                return [""]
            message.metadata.__dict__["_message_id"] = name
            context = self.contexts[node]
            client = int(context.node_config.get("partition-id", -1))
            answer: Message | None = self.app(message, context)
            self.sent.append((client, message.metadata.message_type, message))
            if message.metadata.message_type == "train":
                assert answer is not None
                answer = self.change(int(message.content["task"]["round"]), client, answer)
            self.answers[name] = answer
            names.append(name)
        self.most_open = max(self.most_open, len(self.answers))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Later questions are answered first."""
        ready = [name for name in reversed(list(message_ids)) if self.answers.get(name) is not None]
        return [message for name in ready if (message := self.answers.pop(name)) is not None]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's processes know who they are; messages cannot be made without."""
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture
def make_grid(make_trainer: Any, make_data: Any) -> Callable[..., LoopGrid]:
    """A grid whose nodes build their working copy with ``make``, once for all of them as Ray's processes do."""

    def make(
        make: Callable[[], FederatedModule],
        clients: int = 4,
        data: Callable[[], Any] = make_data,
        work: type[NodeWork] = NodeWork,
        states: Path | None = None,
        config: dict[int, dict[str, Any]] | None = None,
    ) -> LoopGrid:
        built: list[FederatedModule] = []

        class Work(work):  # type: ignore[misc, valid-type]
            def module(self) -> FederatedModule:
                if not built:
                    module = make()
                    module.engine = Elsewhere(clients)
                    make_trainer(0, limit_val_batches=0).fit(module, datamodule=data())
                    built.append(module)
                built[0].data_client = {self.client: self.data_client}
                return built[0]

        return LoopGrid(client_app("", states=states, client_kind=Work), clients, config)

    return make


@pytest.fixture
def over() -> Callable[..., FederatedModule]:
    """``over(module, grid)``: the module with the Flower engine."""

    def give(module: FederatedModule, grid: Grid, **options: Any) -> FederatedModule:
        module.engine = FlowerEngine(FlowerOptions(**{"wait": 1.0, "timeout": 0.2} | options), lambda: "", grid)
        return module

    return give
