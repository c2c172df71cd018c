"""Clients that start from one model, trained as one batched computation instead of one after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import default_collate

from shared.errors import RunError, UsageError
from shared.federated.client import ClientTraining, LocalResult, batch_size
from shared.task import Task

AT_ONCE = 64
"""Most clients in one computation."""
NUMBERS_AT_ONCE = 2**26
"""Most parameters in one computation, over its clients: 1 GiB with gradients and Adam's moments."""
SMALL = 50_000
"""Parameters up to which a model without convolutions gains on a CPU."""
TOLERANCE = 1e-3
ELEMENTWISE = (SGD, Adam, AdamW)


@dataclass
class Stream:
    """What one client trains on: its batches of all epochs, in order, and how many they are.

    Attributes:
        batches: Yields the epoch (from 0) and the batch.
        steps: Their number.
    """

    batches: Iterator[tuple[int, Any]]
    steps: int


class ItemLosses(nn.Module):
    """The losses of a task behind ``forward``, which is what ``functional_call`` calls."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.task.item_losses(batch)


def masked_loss(model: ItemLosses, weights: Mapping[str, Tensor], batch: Any, mask: Tensor) -> Tensor:
    """The task's loss over the items where ``mask`` is 1, as a function of ``weights``."""
    losses, counts = functional_call(model, {f"task.{name}": tensor for name, tensor in weights.items()}, (batch,))
    return (mask * losses).sum() / (mask * counts).sum()


def stacked(batches: Sequence[Any], device: torch.device) -> tuple[Any, Tensor]:
    """Batches of several clients as one, with a leading dimension of clients.

    A smaller batch is filled up with its own first item, a value that the model is sure to bear; the mask says so.

    Returns:
        The batch, each tensor ``(K, N, ...)``, and the mask ``(K, N)`` of 0 and 1.
    """
    sizes = [batch_size(batch) for batch in batches]
    largest = max(sizes)

    def filled(tensor: Tensor) -> Tensor:
        lacking = largest - len(tensor)
        return torch.cat([tensor, tensor[:1].expand(lacking, *tensor.shape[1:])]) if lacking else tensor

    together = default_collate([apply_to_collection(batch, Tensor, filled) for batch in batches])
    mask = torch.arange(largest) < torch.tensor(sizes)[:, None]
    return together, mask.to(device, torch.float32)


def train_together(
    model: Task,
    start: Mapping[str, Tensor],
    streams: Sequence[Stream],
    make_optimizer: Callable[[list[nn.Parameter]], Optimizer],
    on_step: Callable[[int], None] = lambda step: None,
) -> list[tuple[dict[str, Tensor], LocalResult] | Exception]:
    """Train one copy of ``model`` per stream, all of them at once.

    Each ends where :func:`~shared.federated.client.train_locally` would bring it, up to rounding. The copies stand in
    tensors with a leading dimension of clients. The loss is the sum of the clients' losses, of which each depends on
    its own rows alone, so one backward pass gives every client its own gradient; the optimiser works element by
    element, so one step moves each client as its own optimiser would. Clients are sorted by their number of steps and
    the tensors are cut to those that still train: a client that is done neither moves nor costs.

    Args:
        model: The skeleton, in training mode; its own values are used for what ``start`` does not name, and unchanged.
        start: Parameters to train, by name; read only.
        streams: One per client.
        make_optimizer: Builds SGD, Adam or AdamW over the stacked parameters.
        on_step: Called after each step with the number of steps so far.

    Returns:
        For each stream in turn the trained parameters (views into the stacked ones) and the report, or what its
        batches raised.

    Raises:
        RunError: The batches of two clients do not stack.
        UsageError: A batch is refused; this and a RunError end the run and not only the client's round.
    """
    order = sorted(range(len(streams)), key=lambda i: -streams[i].steps)
    whole = {name: torch.stack([tensor.detach()] * len(streams)) for name, tensor in start.items()}
    weights = {name: nn.Parameter(tensor) for name, tensor in whole.items()}
    device = next(iter(whole.values())).device
    optimizer = make_optimizer(list(weights.values()))
    losses_of = vmap(partial(masked_loss, ItemLosses(model)))
    total = torch.zeros(len(streams), device=device)
    samples = [0] * len(streams)
    failed: dict[int, Exception] = {}
    active = len(streams)

    for step in range(max(stream.steps for stream in streams)):
        still = sum(stream.steps > step for stream in streams)
        if still < active:
            _cut(optimizer, weights, still)
            active = still
        batches: dict[int, Any] = {}
        for row, i in enumerate(order[:active]):
            if i in failed:
                continue
            try:
                epoch, batches[row] = next(streams[i].batches)
            except StopIteration:
                failed[i] = ValueError(f"the batches ended after {step} of {streams[i].steps}")
            except (UsageError, RunError):
                raise
            except Exception as error:
                failed[i] = error
            else:
                samples[i] += batch_size(batches[row]) if epoch == 0 else 0
        if not batches:
            break
        # A client that failed goes on with another's batch, so that rows stay where they are; its result is not used.
        filler = next(iter(batches.values()))
        try:
            batch, mask = stacked([batches.get(row, filler) for row in range(active)], device)
        except RuntimeError as error:
            raise RunError(f"client.batched must be never where clients' batches differ in shape ({error})") from error
        losses = losses_of(weights, batch, mask)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        total[:active] += losses.detach()
        on_step(step + 1)

    means = total.tolist()
    outcomes: dict[int, tuple[dict[str, Tensor], LocalResult] | Exception] = dict(failed)
    for row, i in enumerate(order):
        steps = streams[i].steps
        if i not in failed:
            result = LocalResult(samples[i], steps, means[row] / steps if steps else float("nan"))
            outcomes[i] = {name: tensor[row] for name, tensor in whole.items()}, result
    return [outcomes[i] for i in range(len(streams))]


def _cut(optimizer: Optimizer, weights: dict[str, nn.Parameter], rows: int) -> None:
    """Go on with the first ``rows`` clients: parameters and moments become views of their first rows."""
    group = optimizer.param_groups[0]
    for name, old in weights.items():
        # A new parameter, since autograd remembers the shape of the old one.
        weights[name] = nn.Parameter(old.detach()[:rows])
        optimizer.state[weights[name]] = {
            # The step counter has no dimension, all moments have.
            key: value[:rows] if isinstance(value, Tensor) and value.ndim else value
            for key, value in optimizer.state.pop(old, {}).items()
        }
    group["params"] = list(weights.values())


# ---------------------------------------------------------------------- when


def clients_at_once(model: Task) -> int:
    """How many copies of ``model`` may be trained in one computation."""
    return min(AT_ONCE, NUMBERS_AT_ONCE // max(1, sum(p.numel() for p in model.parameters() if p.requires_grad)))


def obstacle(model: Task, training: ClientTraining, precision: str) -> str | None:
    """Why clients cannot be batched, as far as the configuration tells; ``None`` if nothing stands against it.

    Args:
        model: The task, with the parameters to train marked.
        training: The local recipe.
        precision: The trainer's.
    """
    if type(model).item_losses is Task.item_losses:
        return f"{type(model).__name__} does not offer the losses of single items"
    if training.keep_optimizer:
        return "client.keep_optimizer gives each client a state of its own"
    if training.scheduler is not None:
        return "client.scheduler is counted for each client"
    if training.accumulate > 1:
        return "client.accumulate is above 1"
    if training.proximal:
        return "client.proximal is not 0"
    if training.max_grad_norm is not None:
        return "client.max_grad_norm is set"
    if precision != "32-true":
        return f"trainer.precision is {precision}"
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats):
            return f"{name} ({type(module).__name__}) mixes the items of a batch or keeps running statistics"
        if isinstance(module, _DropoutNd) and module.p > 0:
            return f"{name} ({type(module).__name__}) is random"
    optimizer = training.optimizer(p for p in model.parameters() if p.requires_grad)
    if type(optimizer) not in ELEMENTWISE or len(optimizer.param_groups) > 1:
        return f"the optimiser is {type(optimizer).__name__}, not SGD, Adam or AdamW with one group of parameters"
    if clients_at_once(model) < 2:
        return "the model is so large that no two clients fit into one computation"
    return None


def trial_fault(model: Task, batch: Any) -> str | None:
    """What happens when the first items of ``batch`` are run batched, filled up, and compared with the plain loss.

    It finds what no list of layers can: randomness or branches on values inside a ``forward``, buffers changed there,
    items that look at one another.

    Args:
        model: The task, in training mode; left as it was.
        batch: A training batch on the model's device.
    """
    model = deepcopy(model)
    device = next(model.parameters()).device
    first = apply_to_collection(batch, Tensor, lambda tensor: tensor[:3])
    short = apply_to_collection(batch, Tensor, lambda tensor: tensor[:2])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        try:
            both, mask = stacked([first, short], device)
            weights = {name: torch.stack([p, p]) for name, p in model.named_parameters() if p.requires_grad}
            found = vmap(partial(masked_loss, ItemLosses(model)))(weights, both, mask)
            wanted = torch.stack([model.loss(first), model.loss(short)])
        except Exception as error:
            return f"a trial raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if any(not torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers()):
            return "its forward changes a buffer"
        if not torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            return "its loss over a batch is not that of the items alone"
    return None


def pays(model: Task, device: torch.device) -> bool:
    """Whether ``batched: auto`` chooses the batched computation for a model that allows it.

    On an accelerator always: a step of a small model is bound by the launches of its kernels, and there are as many for
    all clients as for one. On a CPU only for models without convolutions and of at most 50,000 parameters, where the
    overhead of a step outweighs its arithmetic. ``benchmarks/clients.py`` measures the ground of it.
    """
    if device.type != "cpu":
        return True
    convolves = any(isinstance(module, _ConvNd) for module in model.modules())
    return not convolves and sum(p.numel() for p in model.parameters()) <= SMALL
