"""BatchNorm over the batch of all processes, on any device."""

from typing import Any

import torch
import torch.distributed as dist
from lightly.utils.dist import world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.precision import at_least_float32


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of all processes' images, as torch's ``SyncBatchNorm``, which has no CPU version.

    Alone, or in evaluation, it is ordinary BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = at_least_float32(input)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.new_tensor([x.numel() / x.shape[1]])
        totals = _Sum.apply(torch.cat([x.sum(dims), count]))
        total = totals[-1].detach()
        mean = totals[:-1] / total
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / total
        with torch.no_grad():
            self.count(mean, variance * total / (total - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def count(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm below ``module`` by one over all processes; parameters and buffers stay the same ones.

    On GPUs torch's own is taken.
    """
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # which also knows timm's BatchNorm with activation

        for name, child in module.named_children():
            setattr(module, name, convert_sync_batchnorm(child))
        return
    for name, child in module.named_children():
        # Subclasses (timm's, with an activation) compute something else besides.
        if isinstance(child, _BatchNorm) and type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            other = SynchronisedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            other.weight, other.bias = child.weight, child.bias
            other.running_mean, other.running_var = child.running_mean, child.running_var
            other.num_batches_tracked = child.num_batches_tracked
            other.train(child.training)
            setattr(module, name, other)
        else:
            synchronise_batchnorm(child, device)
