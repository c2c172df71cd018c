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
from ray._private.utils import get_num_cpus  # by cgroup as well as by machine; nothing public tells it before the start

from shared.errors import RunError, UsageError
from shared.federated.flower.client import client_app
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.server import FlowerEngine

if TYPE_CHECKING:
    from shared.federated.server_work import ServerWork


def start_ray(clients: int, cpus: int) -> None:
    """Start Ray on this machine, for this process and its children alone.

    It starts processes for all the cores that it knows of, each of which imports the libraries: no more than
    ``clients`` of ``cpus`` cores can use.

    Raises:
        UsageError: There are fewer cores than ``cpus``.
    """
    cores = int(get_num_cpus(override_docker_cpu_warning=True))
    if cpus > cores:
        raise UsageError(f"flower.cpus must be at most {cores}, the cores of this machine, got {cpus}")
    if not ray.is_initialized():
        ray.init(
            num_cpus=min(cores, clients * cpus),
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
        start_ray(len(self.client_ids), self.options.cpus)
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
                # A process that dies is started again by Ray, and has one more try at the message that it had at hand.
                # Without any, messages that come while it starts would be lost too: other clients' rounds.
                backend_config={
                    "client_resources": {
                        "num_cpus": self.options.cpus,
                        "num_gpus": self.options.gpus,
                        "max_restarts": -1,
                        "max_task_retries": 1,
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
