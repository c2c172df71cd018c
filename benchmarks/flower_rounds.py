"""Rounds per second with clients that do nothing: in process, and over Flower's simulated nodes.

    python benchmarks/flower_rounds.py [--quick] [--out benchmarks/results/flower_rounds.json]
    python benchmarks/flower_rounds.py --load --out benchmarks/results/flower_load.json

Clients send back what they got. What is timed is therefore the way there and back: 7.4 MB is the message of FLAP on
SAM ViT-B, 45 MB a ResNet-18. Plain averaging, no evaluation and no checkpoint; the first round, in which nodes start,
is left out. Beside each time stands the floor: the bytes of all messages copied once, at the machine's measured rate.

``--load`` runs 200 clients of a ResNet-18 for three rounds over simulated nodes and reads the most memory that the
server's process had of its own. It must stay below the ``window`` uploads, global vector, row and float64 sum of
:mod:`shared.federated.streaming` and 16 vectors that Flower and Ray carry; all uploads of a round together would take
8.9 GB. Ray's object store is shared memory with a limit of its own.
"""

import argparse
import statistics
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fedseca.networks import ResNet18
from paired import copy_bandwidth, machine, table, write
from shared.classification import Classifier
from shared.federated.client import LocalResult
from shared.federated.fedavg import FedAvg
from shared.federated.flower.client import NodeWork, client_app
from shared.federated.flower.messages import REPORT, TENSORS, answer, from_arrays
from shared.federated.flower.options import FlowerOptions
from shared.federated.flower.simulation import SimulatedNodes
from shared.federated.module import FederatedModule

LOAD_CLIENTS, LOAD_ROUNDS = 200, 3
CARRIED = 16
"""Vectors that Flower and Ray hold in the server's process on their way, whatever the number of clients."""


class Echo(NodeWork):
    """Sends back what it got, without a model of its own."""

    def introduce(self) -> RecordDict:
        """No weights that nobody trains: the digest of nothing."""
        return RecordDict({REPORT: ConfigRecord({"partition-id": self.client, "frozen": sha256().hexdigest()})})

    def train(self, order: RecordDict) -> RecordDict:
        """The global tensors, one sample."""
        return answer(from_arrays(order.array_records[TENSORS]), LocalResult(samples=1, steps=0, loss=0.0))


class IdleClients(FederatedModule):
    """In process, clients send back a copy of what they got."""

    def train_client(
        self, round: int, client: int, state: Any, place: tuple[int, int] = (1, 1)
    ) -> tuple[dict[str, Tensor], LocalResult]:
        return {name: tensor.clone() for name, tensor in state.items()}, LocalResult(samples=1, steps=0, loss=0.0)


class NoData(LightningDataModule):
    """The part of a data module that rounds without data need."""

    def __init__(self, clients: int) -> None:
        super().__init__()
        self.client_ids = tuple(range(clients))

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader([0])  # type: ignore[arg-type]


class RoundEnds(Callback):
    """When each round ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times.append(time.perf_counter())


def model(payload: str) -> Classifier:
    """A model whose message has about the size: 1,846,873 numbers, or 11 M."""
    if payload == "7.4 MB":
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 601)), 601)
    return Classifier(ResNet18(3, 10), 10)


def rounds(payload: str, clients: int, count: int, engine: str, window: int = 8) -> tuple[list[float], int]:
    """Seconds of each round but the first, and bytes that a client gets and sends in one."""
    module = IdleClients(model(payload), FedAvg(), seed=0)
    ends = RoundEnds()
    trainer = Trainer(
        max_epochs=count + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[ends],
    )
    size = 2 * sum(t.numel() * t.element_size() for t in module.communicated().values())
    if engine == "in process":
        trainer.fit(module, datamodule=NoData(clients))
    else:
        nodes = SimulatedNodes(FlowerOptions(window=window), lambda: "", "", app=client_app("", client_kind=Echo))
        with nodes as module.engine:
            trainer.fit(module, datamodule=NoData(clients))
    return [end - start for start, end in zip(ends.times, ends.times[1:], strict=False)], size


def speed(quick: bool) -> list[dict[str, Any]]:
    """All payloads and numbers of clients, engines side by side."""
    rate = copy_bandwidth()
    rows = []
    for payload in ("7.4 MB", "45 MB"):
        for clients in (3,) if quick else (6, 50):
            row: dict[str, Any] = {"payload": payload, "clients": clients}
            for engine in ("in process", "simulation"):
                seconds, size = rounds(payload, clients, 1 if quick else 3, engine)
                row[f"{engine}: s per round"] = round(statistics.median(seconds), 4)
                row[f"{engine}: rounds per s"] = round(1 / statistics.median(seconds), 3)
            row["floor_s"] = round(clients * size / rate, 4)
            rows.append(row)
            print(row, flush=True)
    return rows


class OwnMemory(threading.Thread):
    """The most bytes of this process's own that were resident at once, by looking every 20 ms.

    Ray's object store is shared memory, which has its own limit, and is left out.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.start_bytes = self.peak = self.now()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> int:
        """Bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def load(clients: int = LOAD_CLIENTS, window: int = 8) -> dict[str, Any]:
    """The server's memory with many clients of a large model."""
    memory = OwnMemory()
    memory.start()
    start = time.perf_counter()
    seconds, size = rounds("45 MB", clients, LOAD_ROUNDS - 1, "simulation", window)
    memory.over.set()
    memory.join()
    vector = size // 2
    bound = vector * (window + 4 + CARRIED)
    grown = memory.peak - memory.start_bytes
    return {
        "clients": clients,
        "rounds": len(seconds) + 1,
        "seconds": round(time.perf_counter() - start, 1),
        "window": window,
        "all uploads, MB": round(clients * vector / 1e6),
        "server grew by, MB": round(grown / 1e6),
        "bound, MB": round(bound / 1e6),
        "within": grown <= bound,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 clients, one round")
    parser.add_argument("--load", action="store_true", help="memory of the server with 200 clients, instead of times")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [load(20 if options.quick else LOAD_CLIENTS)] if options.load else speed(options.quick)
    print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(machine())
    if options.out:
        title = "memory of the server" if options.load else "rounds per second with clients that do nothing"
        write(options.out, title, rows)


if __name__ == "__main__":
    main()
