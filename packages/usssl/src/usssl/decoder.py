"""The mirror of a ResNet: from its last feature map back to the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from usssl.backbones import RESNETS, Backbone

BASIC_OUT = (256, 128, 64, 64)
BOTTLENECK = ((2048, 512, 1024), (1024, 256, 512), (512, 128, 256), (256, 64, 64))


def activated(channels: int, layer: nn.Module) -> nn.Sequential:
    """BatchNorm and ReLU in front of a layer."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), layer)


def doubled(channels: int, out: int, kernel: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(channels, out, kernel, stride=2, padding=(kernel - 1) // 2, output_padding=1, bias=False)


class ResidualBlock(nn.Module):
    """A pre-activation residual block; nothing comes after the sum.

    Args:
        layers: The branch.
        skip: What the input takes beside it: nothing, or a layer that doubles the size as the branch does.
    """

    def __init__(self, layers: Sequence[nn.Module], skip: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.skip(x)


def basic_block(channels: int, out: int | None = None) -> ResidualBlock:
    """Two 3x3 convolutions; with ``out`` the second doubles the size and has ``out`` channels."""
    first = activated(channels, nn.Conv2d(channels, channels, 3, padding=1, bias=False))
    if out is None:
        second: nn.Module = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        return ResidualBlock([first, activated(channels, second)], nn.Identity())
    second = doubled(channels, out, 3)
    return ResidualBlock([first, activated(channels, second)], activated(channels, doubled(channels, out, 1)))


def bottleneck_block(channels: int, hidden: int, out: int | None = None) -> ResidualBlock:
    """1x1, 3x3, 1x1 convolutions; with ``out`` the last doubles the size and has ``out`` channels."""
    branch = [
        activated(channels, nn.Conv2d(channels, hidden, 1, bias=False)),
        activated(hidden, nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)),
    ]
    if out is None:
        return ResidualBlock([*branch, activated(hidden, nn.Conv2d(hidden, channels, 1, bias=False))], nn.Identity())
    branch.append(activated(hidden, doubled(hidden, out, 1)))
    return ResidualBlock(branch, activated(channels, doubled(channels, out, 1)))


def mirrored_decoder(backbone: Backbone, reverse_blocks: bool = False, channels_last: bool = True) -> nn.Sequential:
    """From ``(B, F, S/32, S/32)`` features of a backbone to ``(B, 3, S, S)`` images, for any S divisible by 32.

    Four stages of as many blocks as the encoder has, of which the last doubles the size; then BatchNorm, ReLU and a
    7x7 transposed convolution, the output as it comes. Convolutions have no bias. The reference gives its deepest stage
    the encoder's *first* number of blocks. Parameters: 11,180,736 (ResNet-18), 19,518,400 (34), 21,833,792 (50).
    For a backbone of timm: ResNet-18's decoder, from the backbone's width.

    Args:
        backbone: The encoder.
        reverse_blocks: Give the deepest stage the encoder's last number of blocks instead, as a mirror would.
        channels_last: Memory format of the weights.
    """
    block, blocks = RESNETS.get(backbone.name, RESNETS["resnet18"])
    stages: list[nn.Module] = []
    channels = backbone.width
    for stage, count in enumerate(reversed(blocks) if reverse_blocks else blocks):
        if block is Bottleneck:
            channels, hidden, out = BOTTLENECK[stage]
            stages += [bottleneck_block(channels, hidden) for _ in range(count - 1)]
            stages.append(bottleneck_block(channels, hidden, out))
        else:
            stages += [basic_block(channels) for _ in range(count - 1)]
            stages.append(basic_block(channels, BASIC_OUT[stage]))
            channels = BASIC_OUT[stage]
    decoder = nn.Sequential(*stages, activated(64, doubled(64, 3, 7)))
    if channels_last:
        decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return decoder
