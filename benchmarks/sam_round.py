"""What a federated round of FLAP-SAM costs beyond its clients' training.

    python benchmarks/sam_round.py [--quick] [--out benchmarks/results/sam_round.json]

The default model (tiny SAM, FLAP, rank 32, 96 pixels) and the default three sites, one batch each, exact factors of the
mean product, a run folder with ledger and clients' AdamW moments, no evaluation and no checkpoint. Of each round,
Lightning's loop included, the time in the clients' training steps and their loaders is subtracted; what is left is the
engine's: copies, moments to and from disk, the server's rule, the records. The rule alone stands beside it.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import AdamW

import shared.federated.client_work
from fedsam.data import VolumeDataModule
from fedsam.lora_aggregation import SVDExact
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.mini_ixi import MiniIxi
from fedsam.module import FederatedSegmenter
from fedsam.segmenter import Inference, Scores
from paired import machine, median_interval, table, write
from shared.federated.client import ClientTraining
from shared.runs import RunLogger

LIMIT_MS = 50.0


class Stopwatch:
    """A function, and the seconds of clock and CPU spent in it."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.spent = (0.0, 0.0)

    def __call__(self, *args: Any, **options: Any) -> Any:
        clock, cpu = time.perf_counter(), time.process_time()
        result = self.function(*args, **options)
        self.spent = (self.spent[0] + time.perf_counter() - clock, self.spent[1] + time.process_time() - cpu)
        return result


class Rounds(Callback):
    """Milliseconds of clock and CPU of each round: whole, in training, in the server's rule."""

    def __init__(self, training: Stopwatch, rule: Stopwatch) -> None:
        self.watches = (training, rule)
        self.told: list[list[tuple[float, float]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = (time.perf_counter(), time.process_time())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = (time.perf_counter(), time.process_time())
        whole = (now[0] - self.began[0], now[1] - self.began[1])
        self.told.append([whole, *(watch.spent for watch in self.watches)])
        for watch in self.watches:
            watch.spent = (0.0, 0.0)
        self.began = (time.perf_counter(), time.process_time())


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Run the rounds and subtract."""
    data = VolumeDataModule(MiniIxi(train=[1, 1, 1], validation=[0, 0, 0], test=[0, 0, 0]), stride=90, in_memory=True)
    module = FederatedSegmenter(
        image_size=96,
        num_classes=1,
        class_names=["background", "brain"],
        aggregator=SVDExact(),
        client=ClientTraining(optimizer=partial(AdamW, lr=0.002, weight_decay=0.1), keep_optimizer=True),
        loss=CrossEntropyDiceLoss(),
        inference=Inference("fast", scaling="slice"),
        scores=Scores(distances=False),
        size="tiny",
        variant="flap",
        init="tiny",
    )
    training = Stopwatch(shared.federated.client_work.train_locally)
    shared.federated.client_work.train_locally = training
    rule = Stopwatch(module.aggregator.forward)
    module.aggregator.forward = rule  # type: ignore[method-assign]
    told = Rounds(training, rule)
    trainer = Trainer(
        max_epochs=rounds + 2,
        accelerator="cpu",
        logger=RunLogger(folder, "fedsam", "round"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        limit_val_batches=0,
        callbacks=[told],
    )
    trainer.fit(module, datamodule=data)
    result: dict[str, Any] = {"clients": len(data.client_ids), "numbers": module.layout.size, "rounds": rounds}
    for i, kind in enumerate(("wall", "cpu")):
        whole, trained, ruled = ([1e3 * parts[which][i] for parts in told.told[2:]] for which in range(3))
        overhead = [a - b for a, b in zip(whole, trained, strict=True)]
        low, high = median_interval(overhead)
        result |= {
            f"round_{kind}_ms": round(statistics.median(whole), 2),
            f"training_{kind}_ms": round(statistics.median(trained), 2),
            f"rule_{kind}_ms": round(statistics.median(ruled), 2),
            f"overhead_{kind}_ms": round(statistics.median(overhead), 2),
            f"low_{kind}_ms": round(low, 2),
            f"high_{kind}_ms": round(high, 2),
        }
    return result | {"limit_ms": LIMIT_MS, "within": result["high_wall_ms"] < LIMIT_MS}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds in place of 41")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(5 if options.quick else 41, Path(folder))
    print(table(["what", "value"], [[name, str(value)] for name, value in result.items()]))
    print(machine())
    if options.out:
        write(options.out, "overhead of a federated round of FLAP-SAM beyond its clients' training", [result])


if __name__ == "__main__":
    main()
