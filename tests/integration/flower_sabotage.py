"""``fedseca fit --engine flower`` whose clients fail; test_flower_faults.py runs it with a kind of sabotage first."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import ray

if __name__ == "__main__":
    # Before the libraries: Ray's process for the nodes imports them while this one does.
    os.environ["RAY_preload_python_modules"] = "fedseca.training"  # noqa: SIM112
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

import torch
from flwr.app import RecordDict

from fedseca.cli import main
from shared.federated.flower import simulation
from shared.federated.flower.client import NodeWork, client_app
from shared.federated.flower.messages import REPORT, TASK, TENSORS, from_payload, to_payload
from shared.federated.flower.options import FlowerOptions

BIAS = "network.head.2.bias"
"""A tensor of the model."""


def honest(answer: RecordDict) -> RecordDict:
    return answer


def with_tensor(answer: RecordDict, name: str, tensor: torch.Tensor) -> RecordDict:
    answer[TENSORS] = to_payload(from_payload(answer.array_records[TENSORS]) | {name: tensor})
    return answer


def nan(answer: RecordDict) -> RecordDict:
    return with_tensor(answer, BIAS, torch.full((10,), torch.nan))


def wrong_shape(answer: RecordDict) -> RecordDict:
    return with_tensor(answer, BIAS, torch.zeros(2, 5))


def extra_key(answer: RecordDict) -> RecordDict:
    return with_tensor(answer, "stranger", torch.zeros(1))


def huge(answer: RecordDict) -> RecordDict:
    return with_tensor(answer, BIAS, torch.zeros(4_000_000))


def zero_samples(answer: RecordDict) -> RecordDict:
    answer.metric_records[REPORT]["num-examples"] = 0
    return answer


def raises(answer: RecordDict) -> RecordDict:
    raise ValueError("no such slice")


def dies(answer: RecordDict) -> RecordDict:
    os.kill(os.getpid(), signal.SIGKILL)
    return answer


def dies_once(answer: RecordDict) -> RecordDict:
    mark = Path(os.environ["FLWR_HOME"], "died")
    return answer if mark.exists() else (mark.touch(), dies(answer))[1]


Sabotage = dict[tuple[int, int], Callable[[RecordDict], RecordDict]]
"""What becomes of an answer, by round and client."""
ANSWERS: Sabotage = {
    (1, 0): nan,
    (1, 3): wrong_shape,
    (1, 6): huge,
    (2, 1): extra_key,
    (2, 4): zero_samples,
    (2, 7): raises,
    **{(3, client): raises for client in range(9)},
}
DEATHS: Sabotage = {(0, 3): dies, (1, 2): dies_once}
KINDS = {"answers": ANSWERS, "deaths": DEATHS, "none": {}}


class Saboteur(NodeWork):
    """Trains honestly and spoils the answer."""

    sabotage: Sabotage

    def train(self, order: RecordDict) -> RecordDict:
        round = int(str(order.config_records[TASK]["round"]))
        answer = super().train(order)
        return self.sabotage.get((round, self.client), honest)(answer)


class SabotagedNodes(simulation.SimulatedNodes):
    """Simulated nodes of saboteurs."""

    def __init__(
        self, options: FlowerOptions, config: Callable[[], str], build: str, states: Path | None = None
    ) -> None:
        super().__init__(options, config, build, states, client_app(build, states=states, client_kind=Saboteur))


if __name__ == "__main__":
    simulation.SimulatedNodes = SabotagedNodes  # type: ignore[misc]
    Saboteur.sabotage = KINDS[sys.argv[1]]
    main(sys.argv[2:])
