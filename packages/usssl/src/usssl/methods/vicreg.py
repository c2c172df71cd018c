"""VICReg."""

from functools import partial
from typing import Any

from torch import Tensor

from usssl.backbones import Backbone
from usssl.heads import infomax_projector
from usssl.lars import LARS
from usssl.learning_rates import WarmupCosine
from usssl.losses.vicreg import vicreg_loss
from usssl.methods.method import Method, Recipe, two_views


class VICReg(Method):
    """Two views of an image agree, every dimension varies over the batch, no two vary together.

    The loss is :func:`~usssl.losses.vicreg.vicreg_loss`, the projector that of Barlow Twins.

    Source: Bardes, Ponce, LeCun, "VICReg", ICLR 2022.

    Args:
        backbone: The encoder.
        hidden: Width of the projector's hidden layers.
        width: Width of the embeddings.
        invariance: Weight of the agreement.
        variance: Weight of the variance.
        covariance: Weight of the covariance.
    """

    def __init__(
        self,
        backbone: Backbone,
        hidden: int = 8192,
        width: int = 8192,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(backbone)
        self.projector = infomax_projector(backbone.width, hidden, width)
        self.weights = (invariance, variance, covariance)

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(LARS, lr=0.2, weight_decay=1e-6), WarmupCosine(), lr_batch=256)

    def loss(self, batch: Any) -> Tensor:
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(batch))
        self.embeddings = z1.detach()
        return vicreg_loss(z1, z2, *self.weights)
