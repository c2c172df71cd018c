"""How many epochs of a pretraining a time budget allows, found by timing a few steps."""

import time
from copy import deepcopy
from itertools import chain, islice, repeat
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Trainer

from shared.errors import UsageError
from usssl.pretraining import Pretraining
from usssl.progress import Progress
from usssl.unlabelled import UltrasoundVideoDataModule

UNTIMED, TIMED = 2, 5


def now(device: torch.device) -> float:
    """Seconds of CPU time over all threads; on an accelerator, seconds of the clock when its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def seconds_per_step(model: Pretraining, data: UltrasoundVideoDataModule, trainer: Trainer) -> float:
    """Median seconds of a training step, the making of its batch included.

    A copy of the model is trained; model, data and random numbers stay as they are. CPU time of loader processes is not
    seen: without them (``data.num_workers: 0``) all work is counted.
    """
    device = trainer.strategy.root_device
    module = deepcopy(model).to(device)
    method: Any = module.method.train()
    optimizer = model.optimizer([p for p in method.parameters() if p.requires_grad])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    # A loader of one or two batches is gone through again.
    batches = chain.from_iterable(iter(loader) for loader in repeat(data.train_dataloader()))
    times = []
    with torch.random.fork_rng():
        began = now(device)
        for batch in islice(batches, UNTIMED + TIMED):
            batch = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
            method.before_forward(Progress(0, 2, 0, 2))
            optimizer.zero_grad()
            with trainer.precision_plugin.forward_context():
                loss = method.loss(batch)
            loss.backward()
            optimizer.step()
            method.after_step()
            ended = now(device)
            times.append(ended - began)
            began = ended
    return median(times[UNTIMED:])


def affordable_epochs(
    minutes: float, model: Pretraining, data: UltrasoundVideoDataModule, trainer: Trainer
) -> tuple[int, float]:
    """Whole epochs of training steps within a budget, and the seconds of a step that this rests on.

    Validation, probe and report come on top.

    Args:
        minutes: The budget: of CPU time over all threads, or of the clock on an accelerator.
        model: What is trained.
        data: What on.
        trainer: On which device.

    Raises:
        UsageError: Several processes, or not even one epoch.
    """
    if not minutes > 0:
        raise UsageError(f"--budget_minutes must be above 0, got {minutes:g}")
    if trainer.world_size > 1:
        raise UsageError(f"--budget_minutes needs one process, got {trainer.world_size}: give trainer.max_epochs")
    data.prepare_data()
    data.setup("fit")
    limit = trainer.limit_train_batches
    whole = len(data.train_dataloader())
    batches = whole if limit is None else min(whole, limit) if isinstance(limit, int) else int(whole * limit)
    each = seconds_per_step(model, data, trainer)
    epochs = int(minutes * 60 / (each * max(1, batches)))
    if epochs < 1:
        raise UsageError(
            f"--budget_minutes must allow for one epoch, which takes about {each * batches / 60:.2g} minutes, "
            f"got {minutes:g}"
        )
    return epochs, each
