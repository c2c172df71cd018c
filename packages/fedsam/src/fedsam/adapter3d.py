"""MA-SAM's adapters: slices of a volume exchange information inside a 2D encoder.

``x + Up(GELU(Conv3d(Down(LayerNorm(x)))))`` before the attention and before the MLP of every block; the convolution has
a 3x1x1 kernel and runs over neighbouring slices (Chen et al., MA-SAM, Medical Image Analysis 2024).
"""

import torch
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from shared.errors import UsageError


class SliceAdapter(nn.Module):
    """One adapter. ``up`` starts at zero, so a new adapter changes nothing.

    Args:
        width: Width of the tokens.
        channels: Width inside.
    """

    def __init__(self, width: int, channels: int = 384) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.down = nn.Linear(width, channels, bias=False)
        self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding="same")
        self.up = nn.Linear(channels, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, slices: int) -> Tensor:
        """Tokens ``(B * slices, h, w, D)``, the slices of a sample in a row, to tokens of the same shape."""
        if len(x) % slices:
            raise UsageError(f"slices must divide the number of images, got {slices} slices and {len(x)} images")
        z = self.down(self.norm(x))
        z = z.unflatten(0, (-1, slices)).permute(0, 4, 1, 2, 3)  # (B, channels, slices, h, w)
        z = F.gelu(self._between_slices(z))
        return x + self.up(z.permute(0, 2, 3, 4, 1).flatten(0, 1))

    def _between_slices(self, z: Tensor) -> Tensor:
        """The convolution; on a CPU in float32, since its bfloat16 gradient there is now and then NaN (torch 2.15)."""
        if z.is_cuda or z.dtype == self.conv.weight.dtype:
            return self.conv(z)
        with torch.autocast(z.device.type, enabled=False):
            return self.conv(z.to(self.conv.weight.dtype))


class AdaptedBlock(nn.Module):
    """A block of the published encoder with an adapter before its attention and one before its MLP.

    The block's own parts keep their names, so published weights fit.
    """

    def __init__(self, plain: Block, channels: int = 384) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = plain.norm1, plain.attn, plain.norm2, plain.mlp
        self.window_size = plain.window_size
        width = plain.norm1.normalized_shape[0]
        self.adapter_attn = SliceAdapter(width, channels)
        self.adapter_mlp = SliceAdapter(width, channels)

    def forward(self, x: Tensor, slices: int) -> Tensor:
        """Tokens ``(B * slices, h, w, D)``."""
        x = self.adapter_attn(x, slices)
        y = self.norm1(x)
        if self.window_size:
            y, padded = window_partition(y, self.window_size)
            y = window_unpartition(self.attn(y), self.window_size, padded, x.shape[1:3])
        else:
            y = self.attn(y)
        x = self.adapter_mlp(x + y, slices)
        return x + self.mlp(self.norm2(x))
