"""What several processes need that Lightning does not bring."""

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.utils.data import Dataset, DistributedSampler


class _Gather(torch.autograd.Function):
    """All processes' tensors in order of rank; the gradient of one's own is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x)
        ctx.own = len(x)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # A copy, for it may be shared and is reduced in place; what is in half precision is summed in full.
        wide = torch.promote_types(grads[0].dtype, torch.float32)
        whole = grads[0].to(wide, copy=True, memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        first = distributed.get_rank() * ctx.own
        return whole[first : first + ctx.own].to(grads[0].dtype)


def whole_batch(x: Tensor) -> Tensor:
    """The rows of all processes, in order of their ranks; with gradient, which is summed over the processes.

    Where every process takes the same loss of the whole batch, the mean of the processes' gradients, which
    DistributedDataParallel takes, is then the gradient that one process would have.

    Args:
        x: ``(B, ...)``; of one shape on every process.
    """
    alone = not distributed.is_initialized() or distributed.get_world_size() == 1
    gathered: Tensor = x if alone else _Gather.apply(x.contiguous())
    return gathered


class WholeOnEveryRank(DistributedSampler[int]):
    """All items in order on every rank, for evaluation: exact metrics without gathering.

    Lightning replaces the sampler of an evaluation loader by one that shards the items and repeats some of them to
    make the shards equal, unless the loader's sampler already is a ``DistributedSampler``. This one is, of a world
    with a single rank.

    Args:
        dataset: The items.
    """

    def __init__(self, dataset: Dataset[object] | Sized) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
