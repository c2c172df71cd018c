"""What one client does in one round: train a copy of the global model on its own data."""

import math
from collections.abc import Callable, Collection, Iterable, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from shared.errors import UsageError
from shared.task import Task


@dataclass
class ClientTraining:
    """How a client trains in one round.

    Args:
        optimizer: Optimiser of the local steps; its learning rate is constant within a round.
        epochs: Passes over the client's data in one round.
        proximal: FedProx: adds ``proximal / 2 * ||w - w_global||^2`` over the trained parameters that travel to the
            loss (Li et al., MLSys 2020, eq. 2). 0 is FedAvg.
        accumulate: Batches whose mean gradient makes one step; the last step of an epoch takes what is left.
        max_grad_norm: Clip the gradient to this norm before each step; None does not clip.
        keep_optimizer: Keep each client's optimiser moments from round to round; by default each round starts anew.
        scheduler: Learning rate schedule, stepped after each step of the optimiser and counted per client over the
            whole run, also where the optimiser starts anew; None keeps the rate constant. One whose length is given in
            epochs (``WarmupPolyLR``) counts each client's own.
        batched: Train the clients of a round as one batched computation in place of one after the other, with the same
            batches and, up to rounding, the same result. ``auto`` does it where the model and the recipe allow it and
            it pays (:func:`shared.federated.batched.pays`); ``always`` is refused where it is impossible.
    """

    optimizer: OptimizerCallable = field(default_factory=lambda: partial(AdamW, lr=1e-3, weight_decay=1e-6))
    epochs: int = 1
    proximal: float = 0.0
    max_grad_norm: float | None = None
    keep_optimizer: bool = False
    accumulate: int = 1
    scheduler: LRSchedulerCallable | None = None
    batched: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"client.epochs must be at least 1, got {self.epochs}")
        if self.proximal < 0:
            raise UsageError(f"client.proximal must be at least 0, got {self.proximal}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise UsageError(f"client.max_grad_norm must be above 0, got {self.max_grad_norm}")
        if self.accumulate < 1:
            raise UsageError(f"client.accumulate must be at least 1, got {self.accumulate}")
        if self.batched not in ("auto", "always", "never"):
            raise UsageError(f"client.batched must be auto, always or never, got {self.batched}")
        # Their options are looked at when they are built, which would otherwise be in the first round.
        optimizer = self.optimizer([torch.nn.Parameter(torch.zeros(1, 1, device="cpu"))])
        if self.scheduler is not None:
            self.scheduler(optimizer)

    def steps_per_epoch(self, batches: int) -> int:
        """Steps of the optimiser in one pass over so many batches."""
        return math.ceil(batches / self.accumulate)


@dataclass(frozen=True)
class LocalResult:
    """What a client reports beside its tensors. ``loss`` is the mean over its batches, without the proximal term."""

    samples: int
    steps: int
    loss: float


def train_locally(
    model: Task,
    loader: Iterable[Any],
    training: ClientTraining,
    optimizer: Optimizer,
    *,
    scheduler: LRScheduler | None = None,
    anchored: Collection[str] | None = None,
    poison: Callable[[Any], Any] | None = None,
    to_device: Callable[[Any], Any] = lambda batch: batch,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    on_step: Callable[[int], None] = lambda step: None,
) -> LocalResult:
    """Train ``model`` in place for ``training.epochs`` passes over ``loader``.

    Plain ``backward()`` on a module that no distributed wrapper knows: a wrapper would average the gradients of
    different clients.

    Args:
        model: The working copy; its ``loss(batch)`` is minimised.
        loader: Batches of one pass; iterated once per epoch.
        training: The local recipe.
        optimizer: An optimiser over the parameters of ``model``.
        scheduler: Stepped after each step of the optimiser.
        anchored: Names of the parameters that the proximal term holds; ``None`` means all that are trained.
        poison: Replaces each batch (hostile clients).
        to_device: Moves a batch to the model's device.
        forward_context: Entered around each forward pass (mixed precision).
        on_step: Called after each batch with the number of batches so far.

    Returns:
        Samples seen in one epoch, steps made and the mean loss.
    """
    model.train()
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained = list(named.values())
    held = [p for name, p in named.items() if anchored is None or name in anchored] if training.proximal else []
    anchor = [p.detach().clone() for p in held]
    total, batches, steps, samples = torch.zeros((), device=trained[0].device), 0, 0, 0

    def step(gathered: int) -> None:
        if gathered > 1:
            for parameter in trained:
                if parameter.grad is not None:
                    parameter.grad.div_(gathered)
        if training.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    for epoch in range(training.epochs):
        gathered = 0
        for batch in loader:
            batch = to_device(batch)
            if poison is not None:
                batch = poison(batch)
            if gathered == 0:
                optimizer.zero_grad(set_to_none=True)
            with forward_context():
                loss = model.loss(batch)
            total += loss.detach()
            if anchor:
                loss = loss + training.proximal / 2 * sum(
                    (p - a).square().sum() for p, a in zip(held, anchor, strict=True)
                )
            loss.backward()
            gathered += 1
            batches += 1
            if gathered == training.accumulate:
                step(gathered)
                steps, gathered = steps + 1, 0
            if epoch == 0:
                samples += batch_size(batch)
            on_step(batches)
        if gathered:
            step(gathered)
            steps += 1
    return LocalResult(samples, steps, float(total) / batches if batches else float("nan"))


def batch_size(batch: Any) -> int:
    """Number of samples in a batch: the length of its first tensor."""
    if isinstance(batch, dict):
        return batch_size(next(iter(batch.values())))
    if isinstance(batch, Tensor):
        return len(batch)
    if isinstance(batch, Sized) and not isinstance(batch, str):
        return batch_size(batch[0])  # type: ignore[index]
    raise UsageError(f"a training batch must hold tensors, got {type(batch).__name__}")
