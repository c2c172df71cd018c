"""Contrastive losses: the other view of an image among other images."""

import torch
from lightly.utils.dist import rank
from torch import Tensor
from torch.nn import functional as F

from shared.distributed import whole_batch
from shared.errors import UsageError
from shared.precision import at_least_float32, full_precision


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not positive."""
    if not temperature > 0:
        raise UsageError(f"temperature must be positive, got {temperature}")


def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    r"""Normalised temperature-scaled cross-entropy among the ``2B`` embeddings of two views.

    .. math:: L = -\frac{1}{2B} \sum_i \log \frac{e^{s_{i,p(i)} / \tau}}{\sum_{k \ne i} e^{s_{ik} / \tau}}

    ``s`` is the cosine, ``p(i)`` the other view of ``i``. Under several processes the sum runs over the images of all
    of them, the mean over this process's own. Source: Chen et al., "SimCLR", ICML 2020, eq. 1.

    Args:
        z1: ``(B, D)`` embeddings of one view.
        z2: ``(B, D)`` of the other.
        temperature: τ.

    Example:
        >>> round(nt_xent_loss(torch.ones(4, 3), torch.ones(4, 3)).item(), 6)  # ln 7
        1.94591
    """
    with full_precision(z1.device):
        z1, z2 = (F.normalize(at_least_float32(z), dim=1) for z in (z1, z2))
        n = len(z1)
        all1, all2 = whole_batch(z1), whole_batch(z2)
        logits = torch.cat([z1, z2]) @ torch.cat([all1, all2]).T / temperature
        rows = torch.arange(2 * n, device=logits.device)
        first = torch.arange(n, device=logits.device) + rank() * n
        own = torch.cat([first, first + len(all1)])
        logits = logits.index_put((rows, own), logits.new_tensor(-torch.inf))
        return F.cross_entropy(logits, own.roll(n))


def queue_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.5) -> Tensor:
    r"""Cross-entropy of the right key among the keys of a queue.

    .. math:: L = -\frac1B \sum_i \log
        \frac{e^{q_i \cdot k_i / \tau}}{e^{q_i \cdot k_i / \tau} + \sum_j e^{q_i \cdot Q_j / \tau}}

    Source: He et al., "MoCo", CVPR 2020, eq. 1.

    Args:
        query: ``(B, D)``, normalised here.
        key: ``(B, D)``, normalised here.
        queue: ``(K, D)`` normalised keys of earlier batches.
        temperature: τ.

    Example:
        >>> one = torch.tensor([[1.0, 0.0]])
        >>> round(queue_loss(one, one, one.expand(4096, -1)).item(), 5)  # ln 4097
        8.31801
    """
    with full_precision(query.device):
        query, key = (F.normalize(at_least_float32(z), dim=1) for z in (query, key))
        positive = torch.einsum("nd,nd->n", query, key)
        logits = torch.cat([positive[:, None], query @ queue.T], 1) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
