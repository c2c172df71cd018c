"""A backbone with a classifier on its features."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from shared.errors import UsageError
from usssl.backbones import Backbone


def class_weights(counts: Sequence[int]) -> list[float]:
    """Weight ``n / n_c`` of every class, and 1 of a class without an image; the loss divides their scale out.

    Example:
        >>> class_weights([2, 1, 0, 3, 0])
        [3.0, 6.0, 1.0, 2.0, 1.0]
    """
    return [sum(counts) / count if count else 1.0 for count in counts]


class PlaneClassifier(nn.Module):
    """Backbone, BatchNorm without parameters if wanted, dropout, then linear layers without bias.

    Every hidden layer is followed by LayerNorm, ReLU and dropout. Without hidden layers the head of five classes has
    2,560 parameters on ResNet-18 and 10,240 on ResNet-50.

    Args:
        backbone: The encoder.
        num_classes: Number of classes ``C``.
        hidden: Widths of hidden layers.
        dropout: Share of the features that is dropped in training.
        feature_bnorm: Normalise the features over the batch first.
        freeze: Train the head alone.
        freeze_bn_stats: With ``freeze``, keep the backbone in evaluation mode; otherwise its running statistics drift
            on the labelled images and training uses those of the batch, as in the reference.

    Raises:
        UsageError: ``dropout`` or a width is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.5,
        feature_bnorm: bool = False,
        freeze: bool = False,
        freeze_bn_stats: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"model.dropout must lie in [0, 1), got {dropout}")
        if min(hidden, default=1) < 1:
            raise UsageError(f"model.hidden must hold widths of at least 1, got {list(hidden)}")
        self.backbone = backbone
        self.still = freeze and freeze_bn_stats
        layers: list[nn.Module] = [nn.BatchNorm1d(backbone.width, affine=False)] if feature_bnorm else []
        layers.append(nn.Dropout(dropout))
        width = backbone.width
        for wide in hidden:
            layers += [nn.Linear(width, wide, bias=False), nn.LayerNorm(wide), nn.ReLU(), nn.Dropout(dropout)]
            width = wide
        layers.append(nn.Linear(width, num_classes, bias=False))
        self.head = nn.Sequential(*layers)
        backbone.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.still:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C)`` logits of ``(B, 3, S, S)`` images, or of ``(B, F)`` features of them.

        Features are those of :class:`~usssl.cached_features.CachedFeatures`.
        """
        return self.head(x if x.ndim == 2 else self.backbone.features(x))


def trained_parameters(network: nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that have a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
