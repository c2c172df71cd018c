"""A model together with its task, as every kind of training and evaluation sees it."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric


class Task(LightningModule):
    """What federated clients, ordinary training and evaluation need of a model; none of it needs a trainer.

    Attributes:
        metrics: Scores of an evaluation; ``compute()`` gives names to values, of which the scalars are logged.
    """

    metrics: Metric

    def loss(self, batch: Any) -> Tensor:
        """The scalar training loss of a batch, with gradient."""
        raise NotImplementedError

    def update(self, metrics: Metric, batch: Any) -> None:
        """Add the predictions for a batch to ``metrics``."""
        raise NotImplementedError

    def item_losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """``(N,)`` losses of the items and ``(N,)`` weights, such that ``loss(batch)`` is the ratio of their sums.

        Optional: with it, federated clients can be trained as one batched computation. Pure tensor arithmetic without
        checks, since it runs inside ``torch.func.vmap``; no item may depend on another. See :meth:`check`.
        """
        raise NotImplementedError

    def check(self, batch: Any) -> None:
        """Refuse a batch that :meth:`loss` would refuse; where :meth:`item_losses` is used, it is asked first."""
