"""What it brings to train the clients of a round as one batched computation.

    python benchmarks/clients.py [--quick] [--accelerator cpu] [--out benchmarks/results/clients.json]

Rounds of the engine, Lightning's loop and data loading included, with plain averaging, AdamW, three batches of 32 per
client and no evaluation. Batched and sequential rounds alternate in one run of the same module; the ratio is that of
their CPU seconds over all threads, on an accelerator of clock seconds. Above 1 the batched round is the faster one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from fedseca.blobs import Blobs
from fedseca.data import FederatedImages
from fedseca.networks import SmallCNN
from paired import machine, median_interval, table, write
from shared.classification import Classifier
from shared.data.partition import IID
from shared.federated.batched import pays
from shared.federated.client import ClientTraining
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule

STEPS, BATCH = 3, 32


def mlp(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


CASES: list[tuple[str, Callable[[], nn.Module], int, int]] = [
    *((f"SmallCNN, width {width}", partial(SmallCNN, 1, 10, width), 28, k) for width in (16, 32) for k in (5, 20)),
    *((f"MLP 64-{hidden}-10", partial(mlp, hidden), 8, k) for hidden in (32, 128, 512, 2048) for k in (20, 50)),
]
"""Name, network, pixels of an edge, clients."""


class Alternating(Callback):
    """Batches the clients of every other round, and times each round."""

    def __init__(self) -> None:
        self.seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}

    def _now(self, module: LightningModule) -> tuple[float, float]:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, FederatedModule)
        pl_module._batched = trainer.current_epoch % 2 == 0
        self._began = self._now(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cpu, wall = (now - then for now, then in zip(self._now(pl_module), self._began, strict=True))
        self.seconds[trainer.current_epoch % 2 == 0].append((cpu, wall))


def measure(case: int, threads: int, pairs: int, accelerator: str) -> dict[str, Any]:
    """Run the rounds of one case and compare."""
    name, network, size, clients = CASES[case]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = FederatedModule(Classifier(network(), 10), FedAvg(), client=ClientTraining(batched="always"))
    data = FederatedImages(
        Blobs(train=clients * STEPS * BATCH, test=10, size=size, channels=1), clients, IID(), batch_size=BATCH
    )
    timed = Alternating()
    trainer = Trainer(
        max_epochs=2 * pairs + 2,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[timed],
    )
    trainer.fit(module, datamodule=data)
    clock = 1 if trainer.strategy.root_device.type == "cuda" else 0
    batched, sequential = timed.seconds[True][1:], timed.seconds[False][1:]
    ratios = [alone[clock] / together[clock] for together, alone in zip(batched, sequential, strict=True)]
    low, high = median_interval(ratios)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in module.local.parameters()),
        "clients": clients,
        "device": str(trainer.strategy.root_device.type),
        "threads": threads,
        "pairs": pairs,
        "batched_rounds_per_s": round(1 / statistics.median(wall for _, wall in batched), 2),
        "sequential_rounds_per_s": round(1 / statistics.median(wall for _, wall in sequential), 2),
        "speedup": round(statistics.median(ratios), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "auto": "batched" if pays(module.local, trainer.strategy.root_device) else "sequential",
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 pairs of rounds in place of 21, some cases, one thread")
    parser.add_argument("--accelerator", default="cpu", help="as Lightning names it")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    pairs = 3 if options.quick else 21
    threads = (1, 2) if options.accelerator == "cpu" and not options.quick else (1,)
    cases = range(0, len(CASES), 3 if options.quick else 1)
    results = [measure(case, n, pairs, options.accelerator) for n in threads for case in cases]
    print(table(list(results[0]), [[str(value) for value in result.values()] for result in results]))
    print(machine())
    if options.out:
        about = "batched against sequential training of the clients of a round"
        write(options.out, about, results, results[0]["device"])


if __name__ == "__main__":
    main()
