"""BYOL."""

from functools import partial
from typing import Any

import torch
from lightly.utils.lars import LARS
from torch import Tensor

from usssl.backbones import Backbone
from usssl.heads import byol_predictor, byol_projector
from usssl.learning_rates import Cosine
from usssl.losses.byol import byol_loss
from usssl.methods.method import Method, Recipe, two_views
from usssl.momentum import Clock, check_momentum, momentum_at, momentum_copy, update_momentum
from usssl.progress import Progress


class BYOL(Method):
    """From each view predict what a momentum copy makes of the other.

    The loss is the mean of :func:`~usssl.losses.byol.byol_loss` in both directions, in [0, 4]. Every view is a forward
    pass of its own. The copy is in train mode too and keeps its own BatchNorm statistics: only parameters follow. On
    ResNet-18 24,457,088 parameters, 12,491,840 of them trained.

    Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.

    Args:
        backbone: The encoder.
        hidden: Width of the hidden layers of projector and predictor.
        width: Width of the embeddings.
        momentum: Of the copy at the start; it rises to 1.
        ema_schedule: Whether the momentum is set anew in each epoch (reference; so in the last one the copy stands
            still) or each step.
    """

    def __init__(
        self,
        backbone: Backbone,
        hidden: int = 1024,
        width: int = 256,
        momentum: float = 0.996,
        ema_schedule: Clock = "epoch",
    ) -> None:
        super().__init__(backbone)
        check_momentum(momentum, ema_schedule)
        self.projector = byol_projector(backbone.width, hidden, width)
        self.predictor = byol_predictor(width, hidden)
        self.target_backbone = momentum_copy(backbone)
        self.target_projector = momentum_copy(self.projector)
        self.momentum = momentum
        self.ema_schedule = ema_schedule

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(LARS, lr=0.2, momentum=0.9, weight_decay=1.5e-6), Cosine())

    def before_forward(self, progress: Progress) -> None:
        """Move the copies."""
        self.move_copies(momentum_at(self.momentum, self.ema_schedule, progress))

    def move_copies(self, momentum: float) -> None:
        """Parameters of the copies to ``momentum`` times themselves plus the rest of the trained ones."""
        update_momentum(self.backbone, self.target_backbone, momentum)
        update_momentum(self.projector, self.target_projector, momentum)

    def loss(self, batch: Any) -> Tensor:
        views = two_views(batch)
        z1, z2 = (self.projector(self.backbone(view)) for view in views)
        self.embeddings = z1.detach()
        with torch.no_grad():
            target1, target2 = (self.target_projector(self.target_backbone(view)) for view in views)
        return (byol_loss(self.predictor(z1), target2) + byol_loss(self.predictor(z2), target1)) / 2
