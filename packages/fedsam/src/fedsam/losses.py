"""The segmentation loss: cross-entropy and a soft Dice over the whole batch."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shared.errors import UsageError

IGNORE = -100
DICE_EPSILON = 1e-5


class _CrossEntropyDice(torch.autograd.Function):
    r"""Both losses from one softmax, with their gradient in closed form, so that only the probabilities are kept.

    With :math:`I_c = \sum p_c t_c`, :math:`D_c = \sum p_c^2 + \sum t_c + \epsilon` the gradient of a mean Dice of
    ``K`` classes by :math:`p_c` is :math:`(2 (2 I_c + \epsilon) p_c / D_c^2 - 2 t_c / D_c) / K`, and the softmax turns
    any such :math:`h_c` into :math:`p_c (h_c - \sum_j p_j h_j)`.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        classes = logits.shape[1]
        counted = labels != IGNORE
        target = torch.where(counted, labels, 0)[:, None]
        log_p = logits.log_softmax(1, dtype=torch.float32)
        n = counted.sum()
        cross_entropy = -(log_p.gather(1, target)[:, 0] * counted).sum() / n

        p = log_p.exp_().mul_(counted[:, None])
        hits, truth = [], []
        for c in range(classes):
            mine = labels == c
            hits.append((p[:, c] * mine).sum())
            truth.append(mine.sum())
        squares = torch.stack([p[:, c].square().sum() for c in range(classes)])
        top = 2 * torch.stack(hits) + DICE_EPSILON
        bottom = squares + torch.stack(truth) + DICE_EPSILON
        dice = (1 - top / bottom).mean()
        ctx.save_for_backward(p, target, counted, n, top, bottom)
        ctx.dtype = logits.dtype
        return cross_entropy, dice

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_ce: Tensor, grad_dice: Tensor) -> tuple[Tensor, None]:
        p, target, counted, n, top, bottom = ctx.saved_tensors
        scale = 2 * grad_dice / len(top)
        on_target = -scale / bottom  # what t_c contributes to h_c
        h = p * (scale * top / bottom.square())[:, None, None]
        at_target = on_target[target[:, 0]]
        p_target = p.gather(1, target)[:, 0]
        mean = (h * p).sum(1) + at_target * p_target
        per_pixel = grad_ce / n
        grad = h.sub_(mean[:, None]).add_(per_pixel).mul_(p)
        grad.scatter_add_(1, target, (p_target * at_target - per_pixel * counted)[:, None])
        return grad.to(ctx.dtype), None


def cross_entropy_and_dice(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean cross-entropy and mean soft Dice loss of a batch, background included.

    .. math:: \mathrm{Dice} = \frac{1}{C+1} \sum_{c=0}^{C} \left(1 - \frac{2 \sum p_c t_c + \epsilon}
        {\sum p_c^2 + \sum t_c^2 + \epsilon}\right), \qquad p = \mathrm{softmax}(z),\; t_c = [y = c]

    with :math:`\epsilon = 10^{-5}` and sums over all pixels of the whole batch whose label counts. A class that the
    batch lacks contributes nearly 1 as long as it has probability. The softmax and all sums are in float32, whatever
    the type of the logits (autocast to bfloat16, say); one softmax serves both losses.

    Source: the FLAP-SAM reference code (trainer.py, utils.py), after SAMed and TransUNet.

    Args:
        logits: ``(N, C+1, H, W)`` floating point.
        labels: ``(N, H, W)`` integers in ``0 .. C``; -100, and 255 in uint8, count nowhere.

    Returns:
        Two float32 scalars; the first is NaN where no pixel counts, as in torch.

    Raises:
        UsageError: Shapes that do not fit, labels that are not integers or lie outside ``0 .. C``.
    """
    if logits.ndim != 4 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise UsageError(
            "logits must be (images, classes, height, width) and labels (images, height, width), "
            f"got shapes {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"labels must be integers, got a tensor of {labels.dtype}")
    unsigned = labels.dtype == torch.uint8
    labels = labels.long()
    if unsigned:
        labels = torch.where(labels == 255, IGNORE, labels)
    outside = (labels != IGNORE) & ((labels < 0) | (labels >= logits.shape[1]))
    if outside.any():
        label = int(labels[outside][0])
        raise UsageError(f"labels must lie in 0..{logits.shape[1] - 1} or be {IGNORE} (ignored), got label {label}")
    cross_entropy, dice = _CrossEntropyDice.apply(logits, labels)
    return cross_entropy, dice


class CrossEntropyDiceLoss(nn.Module):
    """Weighted sum of :func:`cross_entropy_and_dice`, by default 0.2 and 0.8.

    Args:
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.

    Raises:
        UsageError: A weight is negative, or both are zero.

    Example:
        >>> labels = torch.tensor([[[0, 1], [1, 0]]])
        >>> round(float(CrossEntropyDiceLoss()(torch.zeros(1, 2, 2, 2), labels)), 4)
        0.4053
    """

    def __init__(self, ce_weight: float = 0.2, dice_weight: float = 0.8) -> None:
        super().__init__()
        if min(ce_weight, dice_weight) < 0 or ce_weight + dice_weight == 0:
            raise UsageError(
                f"ce_weight and dice_weight must not be negative, nor both zero, got {ce_weight} and {dice_weight}"
            )
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``(N, C+1, H, W)`` logits and ``(N, H, W)`` labels to a float32 scalar."""
        cross_entropy, dice = cross_entropy_and_dice(logits, labels)
        return self.ce_weight * cross_entropy + self.dice_weight * dice


def proximal_term(parameters: Iterable[Tensor], anchors: Iterable[Tensor], mu: float) -> Tensor:
    r"""FedProx: :math:`\frac{\mu}{2} \sum_i \|w_i - w_i^{\mathrm{global}}\|^2` over the communicated tensors.

    Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, equation 2.

    Example:
        >>> float(proximal_term([torch.tensor([3.0, 0.0])], [torch.tensor([1.0, 1.0])], mu=0.1))
        0.25
    """
    distances = [F.mse_loss(w, anchor.detach(), reduction="sum") for w, anchor in zip(parameters, anchors, strict=True)]
    return mu / 2 * torch.stack(distances).sum()
