"""What a federated round costs beyond the copies that it cannot avoid.

    python benchmarks/rounds.py [--quick] [--out benchmarks/results/rounds.json]

Five clients that do nothing, ResNet-18 with its 11 M numbers, plain averaging, no evaluation and no checkpoint. Each
round of the engine, Lightning's loop included, alternates in the same process with a bare loop that makes the same
copies: the global model into the working copy, the result into its row of the update matrix, the mean, and the new
model back. The difference is the overhead; the bare loop is the floor.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from fedseca.networks import ResNet18
from paired import machine, median_interval, table, write
from shared.classification import Classifier
from shared.federated.client import LocalResult
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule
from shared.task import Task

CLIENTS = 5
LIMIT_MS = 20.0


class IdleClients(FederatedModule):
    """Clients take the global model into their working copy and send it back."""

    def train_client(
        self, round: int, client: int, state: Any, place: tuple[int, int] = (1, 1)
    ) -> tuple[dict[str, Tensor], LocalResult]:
        own = self._worker().state_dict()
        for name, tensor in state.items():
            own[name].copy_(tensor)
        return own, LocalResult(samples=1, steps=0, loss=0.0)


class NoData(LightningDataModule):
    """The part of a data module that rounds without data need."""

    client_ids = tuple(range(CLIENTS))

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader([0])  # type: ignore[arg-type]


class BareLoop(Callback):
    """Times each round, and after it the bare loop of copies."""

    def __init__(self, module: FederatedModule) -> None:
        self.state = {name: tensor.clone() for name, tensor in module.communicated().items()}
        self.worker = {name: tensor.clone() for name, tensor in self.state.items()}
        self.slots = module.layout.slots
        self.rows = torch.empty(CLIENTS, module.layout.size)
        self.origin = torch.empty(module.layout.size)
        self.engine: list[float] = []
        self.bare: list[float] = []
        self._end = time.perf_counter()

    @torch.no_grad()
    def copies(self) -> None:
        """The least that a round of these clients moves."""
        for slot in self.slots:
            self.origin[slot.start : slot.stop] = self.state[slot.name].view(-1)
        for row in self.rows:
            for name, tensor in self.state.items():
                self.worker[name].copy_(tensor)
            for slot in self.slots:
                row[slot.start : slot.stop] = self.worker[slot.name].view(-1)
            torch.sub(self.origin, row, out=row)
        new = self.origin - torch.full((CLIENTS,), 1 / CLIENTS) @ self.rows
        for slot in self.slots:
            self.state[slot.name].view(-1).copy_(new[slot.start : slot.stop])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        self.engine.append(now - self._end)
        self.copies()
        self._end = time.perf_counter()
        self.bare.append(self._end - now)


def measure(rounds: int) -> dict[str, Any]:
    """Run the rounds and compare."""
    local: Task = Classifier(ResNet18(3, 10), 10)
    module = IdleClients(local, FedAvg(), seed=0)
    bare = BareLoop(module)
    trainer = Trainer(
        max_epochs=rounds + 2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[bare],
    )
    trainer.fit(module, datamodule=NoData())
    engine, floor = bare.engine[2:], bare.bare[2:]
    overhead = [1e3 * (ours - theirs) for ours, theirs in zip(engine, floor, strict=True)]
    low, high = median_interval(overhead)
    return {
        "clients": CLIENTS,
        "numbers": module.layout.size,
        "pairs": len(overhead),
        "round_ms": round(1e3 * statistics.median(engine), 2),
        "copies_ms": round(1e3 * statistics.median(floor), 2),
        "overhead_ms": round(statistics.median(overhead), 2),
        "low_ms": round(low, 2),
        "high_ms": round(high, 2),
        "limit_ms": LIMIT_MS,
        "within": high < LIMIT_MS,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds in place of 41")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    # Copies are bound by memory; threads that wait for a busy core would be measured with them.
    torch.set_num_threads(1)
    result = measure(5 if options.quick else 41)
    print(table(list(result), [[str(value) for value in result.values()]]))
    print(machine())
    if options.out:
        write(options.out, "overhead of a federated round beyond its copies", [result])


if __name__ == "__main__":
    main()
