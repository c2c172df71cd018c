"""Autoencoders: the image itself, one with holes, one with noise."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from shared.errors import UsageError
from shared.precision import at_least_float32, full_precision
from usssl.backbones import Backbone
from usssl.decoder import mirrored_decoder
from usssl.learning_rates import StepDecay
from usssl.methods.method import Method, Recipe


class Autoencoder(Method):
    """A decoder that mirrors the backbone gives back the image, by mean squared error over all numbers.

    With ResNet-18 22,357,248 parameters, with ResNet-50 45,341,824. A batch is ``(image,)``.

    Args:
        backbone: The encoder; it must divide the side of an image by 32.
        reverse_blocks: Give the decoder's deepest stage the encoder's last number of blocks; see
            :func:`~usssl.decoder.mirrored_decoder`.
    """

    def __init__(self, backbone: Backbone, reverse_blocks: bool = False) -> None:
        super().__init__(backbone)
        self.decoder = mirrored_decoder(backbone, reverse_blocks)

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(AdamW, lr=1e-3, weight_decay=1e-6), StepDecay())

    def reconstruct(self, x: Tensor) -> Tensor:
        """``(B, 3, S, S)`` for ``(B, 3, S, S)`` images, S divisible by 32.

        Raises:
            UsageError: S is not divisible by 32.
        """
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise UsageError(f"data.image_size must be divisible by 32 for an autoencoder, got {x.shape[-1]}")
        latent = self.backbone.feature_map(x)
        self.embeddings = latent.detach().mean((2, 3))
        return self.decoder(latent)

    def pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        """What goes in and what shall come out."""
        if isinstance(batch, Tensor) or len(batch) != 1:
            raise UsageError(f"data.views must make one image for {type(self).__name__}")
        return batch[0], batch[0]

    def loss(self, batch: Any) -> Tensor:
        given, wanted = self.pair(batch)
        made = self.reconstruct(given)
        with full_precision(made.device):
            return F.mse_loss(at_least_float32(made), at_least_float32(wanted))


class Inpaint(Autoencoder):
    """An :class:`Autoencoder` that sees an image with a rectangle of noise and gives back the whole one.

    A batch is ``(erased, image)``.
    """

    def pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(batch, Tensor) or len(batch) != 2:
            raise UsageError("data.views must make an erased image and the whole one for Inpaint")
        return batch[0], batch[1]


class Denoise(Autoencoder):
    """An :class:`Autoencoder` that sees an image with white Gaussian noise and gives back the clean one.

    An extra: the reference names it in a comment only. A batch is ``(image,)``; the noise is drawn here.

    Args:
        backbone: The encoder.
        reverse_blocks: As for :class:`Autoencoder`.
        sigma: Standard deviation of the noise, in units of the normalised image.
    """

    def __init__(self, backbone: Backbone, reverse_blocks: bool = False, sigma: float = 0.2) -> None:
        super().__init__(backbone, reverse_blocks)
        if not sigma > 0:
            raise UsageError(f"method.sigma must be positive, got {sigma}")
        self.sigma = sigma

    def pair(self, batch: Any) -> tuple[Tensor, Tensor]:
        (image, _) = super().pair(batch)
        return image + self.sigma * torch.randn_like(image), image
