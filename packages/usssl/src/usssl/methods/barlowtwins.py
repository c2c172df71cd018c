"""Barlow Twins."""

from functools import partial
from typing import Any

from torch import Tensor

from usssl.backbones import Backbone
from usssl.heads import infomax_projector
from usssl.lars import LARS
from usssl.learning_rates import WarmupCosine
from usssl.losses.barlow_twins import LAMBDA, BarlowTwinsLoss
from usssl.methods.method import Method, Recipe, two_views


class BarlowTwins(Method):
    """Two views of an image shall have the same embedding, and its dimensions nothing in common.

    The loss is :class:`~usssl.losses.barlow_twins.BarlowTwinsLoss`, without the factor 0.024 of the original code. The
    projector of the default widths has 138,444,800 parameters on ResNet-18 and 151,027,712 on ResNet-50.

    Source: Zbontar et al., "Barlow Twins", ICML 2021.

    Args:
        backbone: The encoder.
        hidden: Width of the projector's hidden layers.
        width: Width of the embeddings.
        lambda_: Weight of the redundancy term.
    """

    def __init__(self, backbone: Backbone, hidden: int = 8192, width: int = 8192, lambda_: float = LAMBDA) -> None:
        super().__init__(backbone)
        self.projector = infomax_projector(backbone.width, hidden, width)
        self.criterion = BarlowTwinsLoss(width, lambda_)

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(LARS, lr=0.2, vector_lr=0.0048, weight_decay=1e-6), WarmupCosine(), lr_batch=256)

    def loss(self, batch: Any) -> Tensor:
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(batch))
        self.embeddings = z1.detach()
        return self.criterion(z1, z2)
