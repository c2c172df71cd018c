"""How many processes Ray is asked for; rounds over them are in tests/integration."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from shared.errors import RunError, UsageError
from shared.federated.flower import simulation
from shared.federated.flower.options import FlowerOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is started with, on a machine of 64 cores."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(simulation, "get_num_cpus", lambda **_: 64)
    monkeypatch.setattr(ray, "init", options.update)
    return options


@pytest.mark.parametrize(("clients", "cpus", "cores"), [(5, 1, 5), (5, 4, 20), (500, 1, 64), (5, 64, 64)])
def test_no_more_processes_than_clients(asked: dict[str, Any], clients: int, cpus: int, cores: int) -> None:
    simulation.start_ray(clients, cpus)
    assert asked["num_cpus"] == cores


def test_a_client_that_needs_more_cores_than_there_are_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"flower\.cpus must be at most 64, the cores of this machine, got 65"):
        simulation.start_ray(5, 65)
    assert not asked


def test_a_simulation_that_does_not_start_is_told(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(simulation, "run_simulation", refused)
    module = SimpleNamespace(trainer=SimpleNamespace(datamodule=SimpleNamespace(client_ids=[0, 1])))
    with (
        simulation.SimulatedNodes(FlowerOptions(), str, "package:build") as nodes,
        pytest.raises(RunError, match="Flower's simulation did not start: no room"),
    ):
        nodes.start(module)  # type: ignore[arg-type]
