"""Pretrain in all seven ways with equal CPU time, so that ``usssl sweep`` can ask which way helps.

    python tools/pretrain_alike.py --config FILE [--minutes 6] [--methods NAME ...] [--work build/NAME]

FILE is a config of ``usssl pretrain`` without method, views and number of epochs: what is common to all seven. Each
method gets as many whole epochs as fit into the minutes of CPU time of one thread, measured on some of its own steps
beforehand. Weights go to ``WORK/METHOD.safetensors``; what each took goes to ``pretraining.json`` beside FILE. Weights
that are there are kept; a method that is recorded there is trained again for as many epochs, without measuring.
"""

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch

from shared.checkpoints import newest_whole_checkpoint
from usssl.cli import main as usssl

# Large-batch recipes are not made for some hundred steps: narrower projectors, a shorter queue, a faster average.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "autoencoder": ("Autoencoder", "AutoencoderViews", {}),
    "inpaint": ("Inpaint", "InpaintViews", {}),
    "simclr": ("SimCLR", "SimclrViews", {}),
    "moco": ("MoCo", "SimclrViews", {"queue_size": 1024, "momentum": 0.99, "wrap": "ring", "ema_schedule": "step"}),
    "byol": ("BYOL", "SimclrViews", {"momentum": 0.99, "ema_schedule": "step"}),
    "vicreg": ("VICReg", "InfomaxViews", {"hidden": 1024, "width": 1024}),
    "barlowtwins": ("BarlowTwins", "InfomaxViews", {"hidden": 1024, "width": 1024}),
}
RESERVE = 0.8  # of the minutes is planned for steps: the rest is for the report, and for cores that others share
TRIALS = (2, 8)
"""Batches of the two trials, of two epochs each, whose difference is the time of a step."""


def cpu_of(words: list[str]) -> float:
    """CPU seconds of a command of usssl."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    usssl(words)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def newest(runs: Path) -> Path:
    """The run that was written last."""
    return max(runs.glob("version_*"), key=lambda folder: folder.stat().st_mtime)


def pretrain(method: str, config: Path, work: Path, minutes: float) -> None:
    """Weights of one method, and what they cost."""
    record, weights = config.with_name("pretraining.json"), work / f"{method}.safetensors"
    if weights.is_file():
        return
    name, views, options = METHODS[method]
    head = {"class_path": f"usssl.methods.{name}", "init_args": options}
    words = ["pretrain", "--config", str(config), "--model.method", json.dumps(head)]
    words += ["--data.views", f"usssl.augmentation.{views}", "--run.root", str(work)]
    known = recorded(record).get(method)
    epochs, steps = (known["epochs"], known["steps"]) if known else planned(words, work / "usssl", method, minutes)
    used = cpu_of([*words, "--run.name", method, "--trainer.max_epochs", str(epochs)])
    checkpoint = newest_whole_checkpoint(newest(work / "usssl" / method))
    usssl(["export", "--weights", str(checkpoint), "--out", str(weights)])
    if not known:
        row = {"method": method, "epochs": epochs, "steps": steps, "cpu_s": round(used, 1)}
        # Read again: another process may have finished a method in the meantime.
        record.write_text(json.dumps(recorded(record) | {method: row}, indent=1) + "\n")


def planned(words: list[str], runs: Path, method: str, minutes: float) -> tuple[int, int]:
    """Epochs and steps that fit into the minutes."""
    trial = [*words, "--run.name", f"trial-{method}", "--trainer.max_epochs", "2"]
    short, long = (cpu_of([*trial, "--trainer.limit_train_batches", str(n)]) for n in TRIALS)
    step = (long - short) / (2 * (TRIALS[1] - TRIALS[0]))
    found = json.loads((newest(runs / f"trial-{method}") / "results.json").read_text())["data"]
    batches = int(found["train"]["frames"]) // int(found["batch_size"])
    epochs = max(2, int(RESERVE * minutes * 60 / (step * batches)))
    return epochs, epochs * batches


def recorded(record: Path) -> dict[str, Any]:
    """The methods that are done."""
    return json.loads(record.read_text()) if record.is_file() else {}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="what is common to all methods")
    parser.add_argument("--work", type=Path, help="weights and runs; build/ and the config's folder by default")
    parser.add_argument("--minutes", type=float, default=6.0, help="CPU minutes of each pretraining")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = options.work or Path("build") / options.config.resolve().parent.name
    work.mkdir(parents=True, exist_ok=True)
    for each in options.methods:
        pretrain(each, options.config, work, options.minutes)
