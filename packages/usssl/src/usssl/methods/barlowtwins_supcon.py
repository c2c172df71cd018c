"""Barlow Twins with a supervised contrastive term on the few images that have labels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.errors import UsageError
from usssl.backbones import Backbone
from usssl.heads import sup_con_projector
from usssl.losses.barlow_twins import LAMBDA
from usssl.losses.sup_con import sup_con_loss
from usssl.methods.barlowtwins import BarlowTwins
from usssl.methods.method import two_views


class BarlowTwinsSupCon(BarlowTwins):
    """Barlow Twins plus :func:`~usssl.losses.sup_con.sup_con_loss` of a head of its own on the backbone's features.

    A batch is ``{"views": (v1, v2), "labels": y}`` where ``y`` is -1 for images without label, or has besides
    ``"labelled": (w1, w2)``, two views of other images to which the labels belong then.

    An experiment of the authors from before the paper had it with temperature 1, features that were not normalised and
    a head that was left out of the optimiser; ``reference`` is that. By default features are normalised, the head is
    trained and the temperature is 0.07.

    Args:
        backbone: The encoder.
        hidden: Width of the projector's hidden layers.
        width: Width of the embeddings.
        lambda_: Weight of the redundancy term.
        temperature: τ of the supervised term; ``None``: 0.07, or 1 for ``reference``.
        reference: See above.
    """

    def __init__(
        self,
        backbone: Backbone,
        hidden: int = 8192,
        width: int = 8192,
        lambda_: float = LAMBDA,
        temperature: float | None = None,
        reference: bool = False,
    ) -> None:
        super().__init__(backbone, hidden, width, lambda_)
        self.reference = reference
        self.temperature = (1.0 if reference else 0.07) if temperature is None else temperature
        if not self.temperature > 0:
            raise UsageError(f"method.temperature must be positive, got {self.temperature}")
        self.sup_con_head = sup_con_projector(backbone.width).requires_grad_(not reference)

    def loss(self, batch: Any) -> Tensor:
        if not self.training and not isinstance(batch, dict):  # validation frames have no labels
            return super().loss(batch)
        if not isinstance(batch, dict) or not {"views", "labels"} <= set(batch):
            raise UsageError("data must give batches with views and labels to BarlowTwinsSupCon, got views alone")
        views = two_views(batch["views"])
        features = [self.backbone(view) for view in views]
        z1, z2 = (self.projector(h) for h in features)
        self.embeddings = z1.detach()
        if "labelled" in batch:
            features = [self.backbone(view) for view in two_views(batch["labelled"])]
        return self.criterion(z1, z2) + self.supervised(features, batch["labels"])

    def supervised(self, features: list[Tensor], labels: Tensor) -> Tensor:
        """The supervised term of the images with a label; zero, with gradient, where none has one."""
        z = torch.stack([self.sup_con_head(h) for h in features], 1)
        if not self.reference:
            z = F.normalize(z.float(), dim=2)
        known = labels >= 0
        if not known.any():
            return z.sum() * 0
        return sup_con_loss(z[known], labels[known], self.temperature)
