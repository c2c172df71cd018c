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
