"""Flower's simulated nodes: processes of Ray on this machine that train the clients of a run."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import ray
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from shared.errors import RunError
from shared.federated.flower.client import client_app
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.server import FlowerEngine

if TYPE_CHECKING:
    from shared.federated.server_work import ServerWork


def start_ray() -> None:
    """Start Ray on this machine, for this process and its children alone."""
    if not ray.is_initialized():
        ray.init(
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )


READY = 120.0
"""Seconds in which the simulation must have started."""


class SimulatedNodes(FlowerEngine):
    """As many nodes as there are clients, simulated from the start of the engine to the end of the ``with`` block.

    Flower's simulation runs in a thread beside the run; its ServerApp hands over the way to the nodes and waits.

    Args:
        options: How many clients at once, and how to deal with them.
        config: The run's options; see :class:`~shared.federated.flower.server.FlowerEngine`.
        build: Builds the package's command line; see :func:`~shared.federated.flower.client.client_app`.
        states: Where clients keep files of their states; the run's own place for them, so that either engine goes on
            where the other stopped. ``None``: in Flower's contexts only, for as long as the simulation runs.
        app: Another ClientApp than the usual one.
    """

    patient = False

    def __init__(
        self,
        options: FlowerOptions,
        config: Callable[[], str],
        build: str,
        states: Path | None = None,
        app: ClientApp | None = None,
    ) -> None:
        super().__init__(options, config)
        self.app = app or client_app(build, states=states)
        self.reads_states = states is not None
        self._here, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, module: "ServerWork") -> None:
        """Start the simulation and find its nodes.

        Raises:
            RunError: The simulation does not start.
        """
        self.choose_clients(module)
        start_ray()
        self._thread = threading.Thread(target=self._simulate, args=(len(self.client_ids),), daemon=True)
        self._thread.start()
        if not self._here.wait(READY) or self._error is not None:
            raise RunError(f"Flower's simulation did not start: {self._error or f'not within {READY:g} s'}")
        super().start(module)

    def _simulate(self, nodes: int) -> None:
        server = ServerApp()

        @server.main()
        def lend(grid: Grid, context: Context) -> None:
            self.grid = grid
            self._here.set()
            self._over.wait()

        try:
            run_simulation(
                server,
                self.app,
                num_supernodes=nodes,
                # A process that dies is started again by Ray; only the message that it had at hand is lost.
                backend_config={
                    "client_resources": {
                        "num_cpus": self.options.cpus,
                        "num_gpus": self.options.gpus,
                        "max_restarts": -1,
                    }
                },
            )
        except BaseException as error:
            self._error = error
        finally:
            self._here.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if ray.is_initialized():
            ray.shutdown()
