"""CLIP's image and text tower, built by open_clip, with every token projected into the joint space."""

from copy import deepcopy
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from shared.commands import nearest
from shared.errors import UsageError

CLIP_TINY: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 32, "mlp_ratio": 2, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4, "mlp_ratio": 2},
}
"""The small CLIP of this project: 36 patches, 4 layers on both sides, whose weights take less than 3 MB."""

VISION_KEYS = frozenset({"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"})
TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"})


def is_plain(config: dict[str, Any]) -> bool:
    """Whether an open_clip config is OpenAI's architecture: a ViT with a class token and a causal text transformer."""
    return (
        config.keys() <= {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
        and config["vision_cfg"].keys() <= VISION_KEYS
        and isinstance(config["vision_cfg"]["layers"], int)
        and config["text_cfg"].keys() <= TEXT_KEYS
    )


def backbone_names() -> list[str]:
    """Names that :func:`backbone_config` knows."""
    return ["clip_tiny", *(name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name)))]


def backbone_config(name: str) -> dict[str, Any]:
    """The config of a backbone in open_clip's form.

    Args:
        name: ``clip_tiny``, or a name of open_clip. OpenAI's weights need the names that end in ``-quickgelu``.

    Raises:
        UsageError: There is no such name, or it is not OpenAI's architecture.

    Example:
        >>> backbone_config("ViT-B-16-quickgelu")["embed_dim"]
        512
    """
    config = CLIP_TINY if name == "clip_tiny" else open_clip.get_model_config(name)
    if config is None:
        raise UsageError(
            f"backbone must be a model of open_clip or clip_tiny, got {name!r}; {nearest(name, backbone_names())}"
        )
    if not is_plain(config):
        raise UsageError(
            f"backbone must be a CLIP with a plain ViT and a causal text transformer, got {name!r}; "
            f"{nearest(name, backbone_names())}"
        )
    return deepcopy(config)


def build_clip(config: dict[str, Any]) -> open_clip.CLIP:
    """A CLIP with random weights whose towers do not pool: ``visual(images)`` gives all projected tokens.

    Nothing is loaded or fetched. The image tower applies ``ln_post`` and its projection to every token, of which CLIP
    itself keeps token 0 alone.

    Args:
        config: As of :func:`backbone_config`.
    """
    vision = config["vision_cfg"] | {"pool_type": "none"}
    return open_clip.CLIP(
        config["embed_dim"],
        open_clip.CLIPVisionCfg(**vision),
        open_clip.CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=config.get("quick_gelu", False),
    )


def image_tokens(visual: nn.Module, images: Tensor) -> Tensor:
    """``(B, 1 + P, D)`` projected tokens of ``(B, 3, S, S)`` images; token 0 is CLIP's image embedding.

    Raises:
        UsageError: The images are not of the tower's size.
    """
    size = tuple(visual.image_size)  # type: ignore[arg-type]
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, *size):
        raise UsageError(f"images must be (batch, 3, {size[0]}, {size[1]}) for this model, got {tuple(images.shape)}")
    return visual(images)


def causal_mask(length: int) -> Tensor:
    """``(length, length)`` to add to attention scores: minus infinity above the diagonal, else 0."""
    return torch.full((length, length), -torch.inf).triu_(1)


def text_tokens(
    ids: Tensor,
    positions: Tensor,
    token_embedding: nn.Module,
    transformer: nn.Module,
    ln_final: nn.Module,
    text_projection: Tensor,
    mask: Tensor,
) -> Tensor:
    """``(B, L, D)`` projected tokens of ``(B, L)`` texts; the one at the end token is CLIP's text embedding.

    Args:
        ids: Zero padded.
        positions: ``(L, W)``.
        token_embedding: Ids to ``W``.
        transformer: With causal attention.
        ln_final: Normalisation of every token.
        text_projection: ``(W, D)``.
        mask: ``(L, L)``, see :func:`causal_mask`.
    """
    return ln_final(transformer(token_embedding(ids) + positions, attn_mask=mask)) @ text_projection


def has_quick_gelu(module: nn.Module) -> bool:
    """Whether the blocks of a tower use the activation of OpenAI's CLIP, ``x sigmoid(1.702 x)``."""
    return any(isinstance(part, open_clip.transformer.QuickGELU) for part in module.modules())
