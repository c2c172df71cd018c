"""The client's side of Flower: the work of one client of a round, done by one node with its own data."""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable, Mod

from shared.errors import UsageError
from shared.federated.client_work import Failed, told
from shared.federated.flower.frozen import frozen_digest
from shared.federated.flower.memory import ContextStates
from shared.federated.flower.messages import (
    REPORT,
    TASK,
    TENSORS,
    UNGREETED,
    answer,
    failure,
    from_arrays,
    from_payload,
    to_arrays,
    to_payload,
)

if TYPE_CHECKING:
    from shared.federated.cli import FederatedCli
    from shared.federated.module import FederatedModule

GREETING = "greeting"
PRIVACY = ("dp-clipping-norm", "dp-sensitivity", "dp-epsilon", "dp-delta")
NO_TRAINING = (
    *("--trainer.max_epochs=0", "--trainer.limit_val_batches=0", "--trainer.logger=false", "--engine=in_process"),
    *("--trainer.enable_progress_bar=false", "--trainer.num_nodes=1"),
)
"""A fit of no rounds sets up everything that training needs."""

_built: dict[tuple[str, tuple[str, ...], int], "FederatedModule"] = {}
"""The newest working copy of this process."""


def client_app(build: str, *, states: Path | None = None, client_kind: "type[NodeWork] | None" = None) -> ClientApp:
    """The ClientApp of a package.

    Args:
        build: ``module:function`` that builds the package's command line from words; see
            :class:`shared.federated.cli.FederatedCli`.
        states: Where simulated clients keep files of their states; a real node says it itself (``state-dir``).
        client_kind: What does the work.
    """
    app = ClientApp()
    kind = client_kind or NodeWork

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        """Keep the run's options, build the client's part and say who this is."""
        try:
            context.state[GREETING] = ConfigRecord({"config": str(message.content[TASK]["config"])})
            reply = kind(build, context, states).introduce()
        except Exception as error:
            reply = failure(told(error))
        return Message(reply, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """Do the client's part of a round."""

        def work(message: Message, context: Context) -> Message:
            return Message(kind(build, context, states).train(message.content), reply_to=message)

        try:
            privacy = local_privacy(context, message.content.array_records[TENSORS])
            return work(message, context) if privacy is None else over_arrays(privacy, message, context, work)
        except Exception as error:
            return Message(failure(told(error)), reply_to=message)

    return app


def local_privacy(context: Context, sent: ArrayRecord) -> LocalDpMod | None:
    """Flower's clipping and noise on what the node sends, where its node config asks for them; ``None`` if not.

    ``dp-clipping-norm`` is the largest norm of an update; Gaussian noise of standard deviation ``dp-sensitivity`` *
    sqrt(2 ln(1.25 / ``dp-delta``)) / ``dp-epsilon`` is added to every number.

    Args:
        context: The node's.
        sent: The tensors that travel.

    Raises:
        UsageError: Only some of the four are given, one is not a positive number, or a tensor would go out as it is.
    """
    given = {name: context.node_config[name] for name in PRIVACY if name in context.node_config}
    if not given:
        return None
    for name in PRIVACY:
        value = given.get(name)
        if not isinstance(value, int | float) or not value > 0:
            raise UsageError(f"{name} in the node config must be a number above 0, got {value}")
    for name, tensor in from_payload(sent).items():
        # Flower's mod passes them on without clipping and noise, and they use up the norm of the others.
        if not tensor.is_floating_point() or tensor.ndim == 0:
            kind = f"{str(tensor.dtype).removeprefix('torch.')} with {tensor.ndim} dimensions"
            raise UsageError(
                f"{PRIVACY[0]} in the node config needs a model that sends floating point tensors of one dimension or "
                f"more, got {name} of {kind}: use a network without BatchNorm's counters and single numbers, or no dp-"
            )
    return LocalDpMod(*(float(given[name]) for name in PRIVACY))


def over_arrays(mod: Mod, message: Message, context: Context, work: ClientAppCallable) -> Message:
    """``work`` inside one of Flower's mods that calculate with arrays, which our messages carry as one payload."""

    def inner(message: Message, context: Context) -> Message:
        message.content[TENSORS] = to_payload(from_arrays(message.content.array_records[TENSORS]))
        reply = work(message, context)
        reply.content[TENSORS] = to_arrays(from_payload(reply.content.array_records[TENSORS]))
        return reply

    message.content[TENSORS] = to_arrays(from_payload(message.content.array_records[TENSORS]))
    reply = mod(message, context, inner)
    reply.content[TENSORS] = to_payload(from_arrays(reply.content.array_records[TENSORS]))
    return reply


class NodeWork:
    """What one node does.

    Its node config has ``partition-id``, the client it is, and ``num-partitions``, how many there are; and may have
    ``words``, options over those of the run (where the data lie on this machine, say), ``state-dir``, a folder for
    states that outlive a Flower run, and ``data-client``, whose data of its own data set it has, where that is not
    ``partition-id``.

    Args:
        build: As for :func:`client_app`, and so is ``states``.
        context: The node's.
    """

    def __init__(self, build: str, context: Context, states: Path | None = None) -> None:
        self.build = build
        self.context = context
        config = context.node_config
        for key in ("partition-id", "num-partitions"):
            if not isinstance(config.get(key), int):
                raise UsageError(f"{key} must be a whole number in the node config, got {config.get(key)}")
        self.client, self.clients = int(config["partition-id"]), int(config["num-partitions"])
        self.data_client = int(config.get("data-client", self.client))
        self.words = tuple(shlex.split(str(config.get("words", ""))))
        folder = config.get("state-dir")
        self.states = Path(str(folder)) if folder else states

    def introduce(self) -> RecordDict:
        """Build model and data; say who this is and which frozen weights it has."""
        module = self.module()
        return RecordDict({REPORT: ConfigRecord({"partition-id": self.client, "frozen": frozen_digest(module)})})

    def train(self, order: RecordDict) -> RecordDict:
        """The client's part of a round: from the global tensors to the answer."""
        module = self.module()
        task, tensors = order.config_records[TASK], order.array_records[TENSORS]
        round, last = int(str(task["round"])), int(str(task["last"]))
        module.client_rounds = {self.client: last} if last >= 0 else {}
        memory = ContextStates(self.context, self.states)
        state = {name: tensor.to(module.device) for name, tensor in from_payload(tensors).items()}
        upload, result = module.train_and_keep(round, self.client, state, memory)
        return answer(upload, result)

    def module(self) -> "FederatedModule":
        """The working copy, built anew only if the options have changed."""
        if GREETING not in self.context.state:
            raise Failed(UNGREETED)
        config = str(self.context.state[GREETING]["config"])
        key = (config, self.words, self.clients)
        if key not in _built:
            _built.clear()
            _built[key] = built_module(self.build, config, self.words, self.clients)
        module = _built[key]
        module.data_client = {self.client: self.data_client}
        return module


def built_module(build: str, config: str, words: Sequence[str], clients: int) -> "FederatedModule":
    """Model, data and trainer from a run's options, ready for client work."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(config, encoding="utf-8")
        cli: FederatedCli = _function(build)(["fit", "--config", str(file), *words, *NO_TRAINING], (), build_only=True)
    module: FederatedModule = cli.model  # type: ignore[assignment]
    module.engine = Elsewhere(clients)
    cli.trainer.fit(module, datamodule=cli.datamodule)
    return module.to(cli.trainer.strategy.root_device)


class Elsewhere:
    """The engine as a node sees it: rounds are run by somebody else."""

    name = "flower"
    reads_states = False

    def __init__(self, clients: int) -> None:
        self.client_ids = list(range(clients))

    def start(self, module: Any) -> None:
        """Nothing."""

    def outcomes(self, *arguments: Any) -> Any:
        """Never asked for."""
        raise NotImplementedError


def _function(reference: str) -> Callable[..., Any]:
    module, function = reference.split(":")
    return getattr(import_module(module), function)
