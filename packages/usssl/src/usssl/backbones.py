"""Encoders of single images: torchvision's ResNets, and any model of timm."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from shared.commands import nearest
from shared.errors import UsageError

RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
TIMM = "timm:"


class Backbone(nn.Module):
    """What every encoder offers.

    Attributes:
        name: The word that :func:`build_backbone` builds it from.
        width: Number of features per image, ``F``.
        pretrained: Where its weights come from: ``none`` (random) or ``file``.
        weights_sha256: Checksum of that file.
    """

    name: str
    width: int
    pretrained: Literal["none", "file"] = "none"
    weights_sha256: str | None = None

    def features(self, x: Tensor) -> Tensor:
        """``(B, F)`` pooled features of ``(B, 3, S, S)`` images."""
        raise NotImplementedError

    def feature_map(self, x: Tensor) -> Tensor:
        """``(B, F, S/32, S/32)`` features of ``(B, 3, S, S)`` images before pooling."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    def published(self) -> nn.Module:
        """The module whose ``state_dict`` has the names under which torchvision or timm publish weights."""
        raise NotImplementedError


class ResNetBackbone(ResNet, Backbone):
    """torchvision's ResNet without its last layer; every residual branch starts at zero.

    Without ``fc``: 11,176,512 parameters (18), 21,284,672 (34), 23,508,032 (50).

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101`` or ``resnet152``.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    avgpool: nn.Module
    fc: nn.Module

    def __init__(self, name: str) -> None:
        block, layers = RESNETS[name]
        super().__init__(block, layers, zero_init_residual=True)
        self.name = name
        self.width = 512 * block.expansion
        self.fc = nn.Identity()

    def feature_map(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def features(self, x: Tensor) -> Tensor:
        return self.avgpool(self.feature_map(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    def published(self) -> nn.Module:
        return self


class TimmBackbone(Backbone):
    """A model of timm without its classifier, from random weights.

    Args:
        name: Name of the model in timm.

    Raises:
        UsageError: timm has no such model.
    """

    network: Any

    def __init__(self, name: str) -> None:
        import timm

        super().__init__()
        if not timm.is_model(name):
            close = nearest(name, timm.list_models())
            raise UsageError(
                f"backbone must name a model of timm after {TIMM}, got {name!r}" + (close and f"; {close}")
            )
        self.name = TIMM + name
        self.network = timm.create_model(name, pretrained=False, num_classes=0)
        self.width = getattr(self.network, "head_hidden_size", None) or self.network.num_features

    def features(self, x: Tensor) -> Tensor:
        return self.network(x)

    def feature_map(self, x: Tensor) -> Tensor:
        features = self.network.forward_features(x)
        grid = (x.shape[-2] // 32, x.shape[-1] // 32)
        if features.ndim != 4 or features.shape[1] != self.network.num_features or features.shape[2:] != grid:
            raise UsageError(
                "backbone must be a convolutional network that divides the image side by 32 where a decoder follows, "
                f"got {self.name}, whose features have the shape {tuple(features.shape)}"
            )
        return features

    def published(self) -> nn.Module:
        return self.network


def build_backbone(name: str, channels_last: bool = True) -> Backbone:
    """An encoder with random weights, drawn from torch's global generator.

    Args:
        name: A ResNet (:data:`RESNETS`), or ``timm:`` and the name of a model in timm.
        channels_last: Keep the weights of convolutions with the channels side by side, which is faster.

    Raises:
        UsageError: No such encoder.

    Example:
        >>> backbone = build_backbone("resnet18")
        >>> backbone.width, sum(p.numel() for p in backbone.parameters())
        (512, 11176512)
    """
    if name.startswith(TIMM):
        backbone: Backbone = TimmBackbone(name.removeprefix(TIMM))
    elif name in RESNETS:
        backbone = ResNetBackbone(name)
    else:
        raise UsageError(f"backbone must be a ResNet or {TIMM}NAME, got {name!r}; {nearest(name, list(RESNETS))}")
    if channels_last:
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone
