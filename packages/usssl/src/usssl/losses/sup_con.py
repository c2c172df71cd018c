"""The supervised contrastive loss: all images of a class are views of one another."""

import torch
from torch import Tensor

from shared.distributed import whole_batch
from shared.precision import at_least_float32, full_precision


def sup_con_loss(
    z: Tensor, labels: Tensor | None = None, temperature: float = 0.07, base_temperature: float = 0.07
) -> Tensor:
    r"""Mean over all anchors ``i`` of the loss of the supervised contrastive learning paper, outside form.

    .. math:: L_i = -\frac{\tau}{\tau_\text{base}} \frac{1}{|P(i)|} \sum_{p \in P(i)}
        \left( \frac{s_{ip}}{\tau} - \log \sum_{a \ne i} e^{s_{ia} / \tau} \right)

    ``s`` is the inner product of what is given: the caller normalises. ``P(i)`` holds the other views of ``i`` and all
    views of the images with its label. Without labels and with ``temperature = base_temperature`` this is NT-Xent.

    Source: Khosla et al., NeurIPS 2020, eq. 2.

    Args:
        z: ``(B, V, D)``, V >= 2 views of each image.
        labels: ``(B,)``; ``None``: every image is a class of its own.
        temperature: τ.
        base_temperature: τ_base.

    Example:
        >>> round(sup_con_loss(torch.ones(4, 2, 3) / 3**0.5).item(), 6)  # ln 7, as NT-Xent of equal vectors
        1.94591
    """
    with full_precision(z.device):
        z = whole_batch(at_least_float32(z))
        labels = torch.arange(len(z), device=z.device) if labels is None else whole_batch(labels)
        views = z.shape[1]
        vectors = z.flatten(0, 1)
        labels = labels.repeat_interleave(views)
        itself = torch.eye(len(vectors), dtype=torch.bool, device=z.device)
        positive = (labels[:, None] == labels[None]) & ~itself
        logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
        log_share = logits.log_softmax(1).masked_fill(~positive, 0)
        return -(temperature / base_temperature) * (log_share.sum(1) / positive.sum(1)).mean()
