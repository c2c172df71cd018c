"""SimCLR."""

from functools import partial
from typing import Any

from lightly.utils.lars import LARS
from torch import Tensor

from usssl.backbones import Backbone
from usssl.heads import simclr_projector
from usssl.learning_rates import Cosine
from usssl.losses.nt_xent import check_temperature, nt_xent_loss
from usssl.methods.method import Method, Recipe, two_views


class SimCLR(Method):
    """A view shall find the other view of its image among all images of the batch.

    The loss is :func:`~usssl.losses.nt_xent.nt_xent_loss`. On ResNet-18 11,505,856 parameters, 329,344 of them in the
    projector.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.

    Args:
        backbone: The encoder.
        hidden: Width of the projector's hidden layer.
        width: Width of the embeddings.
        temperature: τ.
    """

    def __init__(self, backbone: Backbone, hidden: int = 512, width: int = 128, temperature: float = 0.5) -> None:
        super().__init__(backbone)
        check_temperature(temperature)
        self.projector = simclr_projector(backbone.width, hidden, width)
        self.temperature = temperature

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(LARS, lr=0.3, momentum=0.9, weight_decay=1e-4), Cosine())

    def loss(self, batch: Any) -> Tensor:
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(batch))
        self.embeddings = z1.detach()
        return nt_xent_loss(z1, z2, self.temperature)
