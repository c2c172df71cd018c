"""The whole batch on every process."""

import torch
from lightly.utils.dist import gather, world_size
from torch import Tensor


def whole_batch(x: Tensor) -> Tensor:
    """The rows of all processes, in order of their ranks; with gradient, which is summed over the processes.

    Where every process takes the same loss of the whole batch, the mean of the processes' gradients, which
    DistributedDataParallel takes, is then the gradient that one process would have.

    Args:
        x: ``(B, ...)``; as many rows on every process.
    """
    return x if world_size() == 1 else torch.cat(gather(x.contiguous()))
