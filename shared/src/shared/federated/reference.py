"""The server's own update, trained on clean data of its own, for rules that measure the clients by it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from shared.errors import RunError, UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.client import ClientTraining, train_locally
from shared.federated.seeds import derived_generator, derived_seed, global_seed
from shared.federated.vectors import VectorLayout
from shared.task import Task


def needs_reference(aggregator: VectorAggregator | StateRule) -> bool:
    """Whether a rule cannot do without the server's own update."""
    return isinstance(aggregator, VectorAggregator) and aggregator.needs_reference


def require_clean_data(aggregator: VectorAggregator | StateRule, data: LightningDataModule) -> None:
    """Refuse a rule that needs clean data where the server has none.

    Raises:
        UsageError: The rule needs a reference and ``data.server_samples`` is 0 or unknown to these data.
    """
    if needs_reference(aggregator) and not getattr(data, "server_samples", 0):
        raise UsageError(
            f"{type(aggregator).__name__} needs a reference update computed on clean data, got none: "
            "data.server_samples must be above 0, the number of training samples that the server keeps for itself"
        )


def reference_update(
    worker: Task,
    data: LightningDataModule,
    training: ClientTraining,
    layout: VectorLayout,
    state: Mapping[str, Tensor],
    origin: Tensor,
    *,
    seed: int,
    round: int,
    to_device: Callable[[Any], Any] = lambda batch: batch,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Train from the global model on the server's samples as a client would; ``(layout.head,)`` origin minus result.

    Args:
        worker: A working copy of the model; overwritten.
        data: Gives the batches of one pass, ``server_loader(generator)``.
        training: The clients' recipe; the optimiser starts anew in every round.
        layout: How the state stands in a vector.
        state: The global tensors.
        origin: ``(layout.size,)`` the same as a vector.
        seed: Of the run; shuffling and dropout follow from it and the round alone.
        round: Index of the round.
        to_device: As in :func:`shared.federated.client.train_locally`, and so is ``forward_context``.

    Raises:
        RunError: The result is not finite.
    """
    own = worker.state_dict()
    for name, tensor in state.items():
        own[name].copy_(tensor)
    optimizer = training.optimizer(p for p in worker.parameters() if p.requires_grad)
    loader = data.server_loader(derived_generator(seed, "server shuffle", round))  # type: ignore[attr-defined]
    with global_seed(derived_seed(seed, "server", round), origin.device), torch.enable_grad():
        train_locally(worker, loader, training, optimizer, to_device=to_device, forward_context=forward_context)
    with torch.no_grad():
        reference = layout.difference(origin, {name: own[name] for name in state}, out=torch.empty_like(origin))
    if not torch.isfinite(reference).all():
        raise RunError(f"round {round}: the server's own training on data.server_samples gave NaN or infinite values")
    return reference[: layout.head]
