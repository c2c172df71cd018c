"""The training commands of a package with federated training: ``fit`` takes an engine."""

from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from shared.cli import Cli
from shared.errors import UsageError
from shared.federated.flower.options import FlowerOptions
from shared.federated.module import FederatedModule

SENT = ("seed_everything", "model", "data")
SENT_OF_TRAINER = ("accelerator", "devices", "precision", "deterministic")
"""What a client elsewhere needs of the run's options."""


class FederatedCli(Cli):
    """Adds ``--engine``: where the clients of ``fit`` are trained.

    ``in_process``: one after the other in this process. ``flower``: by simulated nodes on this machine. A deployed
    ServerApp gives the way to its nodes as ``grid`` and takes ``flower`` for granted.

    Args:
        grid: Flower's way to the nodes of a deployment.
        build_only: Build model, data and trainer and run nothing, for a client elsewhere.
        **arguments: As for :class:`shared.cli.Cli`.

    Attributes:
        builder: ``module:function`` that builds this command line from words, callbacks and these arguments.
    """

    builder: str

    def __init__(self, *words: Any, grid: Any = None, build_only: bool = False, **arguments: Any) -> None:
        self.grid = grid
        self.build_only = build_only
        super().__init__(*words, **arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The engine and its options beside those of every command."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--engine",
            type=Literal["in_process", "flower"],
            default="in_process",
            help="Where fit trains the clients: in this process, or in processes that Flower simulates nodes with.",
        )
        parser.add_class_arguments(FlowerOptions, "flower")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, unless nothing is run."""
        if not self.build_only:
            super().before_instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb, ``fit`` with its engine."""
        if self.build_only:
            return
        chosen = self.config_init[subcommand] if not self.parse_only else Namespace()
        wanted = self.grid is not None or chosen.get("engine") == "flower"
        if self.parse_only or subcommand != "fit" or not wanted:
            super()._run_subcommand(subcommand)
            return
        assert isinstance(self.model, FederatedModule)
        if self.grid is not None:
            from shared.federated.flower.server import FlowerEngine

            self.model.engine = FlowerEngine(chosen.flower, self.sent_config, self.grid)
            super()._run_subcommand(subcommand)
            return
        try:
            from shared.federated.flower.simulation import SimulatedNodes
        except ImportError as error:
            raise UsageError(
                f"--engine flower needs flwr and ray (pip install '{self.package}[simulation]'), found no {error.name}"
            ) from error
        states = None if self.folder is None else (self.folder / "clients").resolve()
        with SimulatedNodes(chosen.flower, self.sent_config, self.builder, states) as engine:
            self.model.engine = engine
            super()._run_subcommand(subcommand)

    def sent_config(self) -> str:
        """The run's options as far as a client elsewhere needs them, as YAML."""
        chosen = self.config[self.subcommand]
        saved = Namespace({key: chosen[key] for key in SENT})
        options = yaml.safe_load(self._parser(self.subcommand).dump(saved, skip_validation=True))
        return yaml.safe_dump(options | {"trainer": {name: chosen.trainer[name] for name in SENT_OF_TRAINER}})
