"""What the methods have in common."""

from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from shared.errors import UsageError
from usssl.backbones import Backbone
from usssl.learning_rates import Constant, Schedule
from usssl.progress import Progress


@dataclass(frozen=True)
class Recipe:
    """How the reference trains a method.

    Attributes:
        optimizer: Makes the optimiser of the parameters.
        schedule: Course of the learning rate.
        lr_batch: Batch for which the learning rates are given, which are scaled in proportion to the true batch;
            0 leaves them as they are.
    """

    optimizer: OptimizerCallable
    schedule: Schedule = field(default_factory=Constant)
    lr_batch: int = 0


class Method(nn.Module):
    """A self-supervised method around a backbone.

    One step of training is :meth:`before_forward`, :meth:`loss`, the gradient, the optimiser, :meth:`after_step`.

    Args:
        backbone: The encoder to train.

    Attributes:
        embeddings: ``(B, D)`` embeddings of one view in the last batch, without gradient, for the monitors.
    """

    embeddings: Tensor | None

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.embeddings = None

    @staticmethod
    def recipe() -> Recipe:
        """Optimiser and schedule of the reference; the cosine by true steps where its own is a slip."""
        raise NotImplementedError

    def before_forward(self, progress: Progress) -> None:
        """Called in training before each forward pass."""

    def loss(self, batch: Any) -> Tensor:
        """The scalar loss of a batch, with gradient."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called in training after the optimiser's step, unless the batch was skipped."""

    def forward(self, batch: Any) -> Tensor:
        return self.loss(batch)


def two_views(batch: Any) -> tuple[Tensor, Tensor]:
    """The views of a batch ``(v1, v2)``, each ``(B, 3, S, S)``.

    Raises:
        UsageError: Not two views of one shape.
    """
    if isinstance(batch, Tensor) or len(batch) != 2 or batch[0].shape != batch[1].shape:
        raise UsageError("data.views must make two views of equal shape for a method that compares views")
    return batch[0], batch[1]
