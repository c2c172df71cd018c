"""The parts of a model that can be trained or left frozen, each under a short name.

Every parameter belongs to exactly one component. A few names stand for several components at once: ``encoder``,
``prompt`` and ``decoder`` for all that the published SAM has there, ``decoder.transformer`` for the decoder's
attention, MLPs and norms. Components that SAM does not have (LoRA, FacT, adapters) exist only in models that train
them, and no group name includes them.
"""

import re
from collections.abc import Iterable

from shared.commands import nearest
from shared.errors import UsageError

_DECODER_ATTENTION = r"(layers\.\d+\.(self_attn|cross_attn_\w+)|final_attn_token_to_image)"

# The first pattern that matches a parameter's name decides.
_PATTERNS = {
    "encoder.lora": r"image_encoder\..*\.(lora|dora)_",
    "encoder.fact": r"image_encoder\.(fact\.|.*\.fact_)",
    "encoder.adapters": r"image_encoder\..*\.adapter_",
    "encoder.patch_embed": r"image_encoder\.patch_embed\.",
    "encoder.pos_embed": r"image_encoder\.pos_embed$",
    "encoder.attn": r"image_encoder\.blocks\.\d+\.attn\.",
    "encoder.mlp": r"image_encoder\.blocks\.\d+\.mlp\.",
    "encoder.norm": r"image_encoder\.blocks\.\d+\.norm",
    "encoder.neck": r"image_encoder\.neck\.",
    "prompt.points": r"prompt_encoder\.(point_embeddings|not_a_point_embed)\.",
    "prompt.mask": r"prompt_encoder\.mask_downscaling\.",
    "prompt.no_mask": r"prompt_encoder\.no_mask_embed\.",
    "decoder.lora": r"mask_decoder\..*\.(lora|dora)_",
    "decoder.attn": rf"mask_decoder\.transformer\.{_DECODER_ATTENTION}\.",
    "decoder.mlp": r"mask_decoder\.transformer\.layers\.\d+\.mlp\.",
    "decoder.norm": r"mask_decoder\.transformer\.(layers\.\d+\.)?norm",
    "decoder.mask_tokens": r"mask_decoder\.mask_tokens\.",
    "decoder.upscaling": r"mask_decoder\.output_upscaling\.",
    "decoder.hypernetworks": r"mask_decoder\.output_hypernetworks_mlps\.",
    "decoder.iou": r"mask_decoder\.(iou_token|iou_prediction_head)\.",
}
_COMPILED = {component: re.compile(pattern) for component, pattern in _PATTERNS.items()}

COMPONENTS = tuple(_PATTERNS)
"""All components, in the order of the table that :meth:`fedsam.sam.Sam.components` returns."""

ADDED = frozenset({"encoder.lora", "encoder.fact", "encoder.adapters", "decoder.lora"})
"""Components that the published SAM does not have; a model has them only if it trains them."""

GROUPS = {
    "encoder": tuple(c for c in COMPONENTS if c.startswith("encoder.") and c not in ADDED),
    "prompt": tuple(c for c in COMPONENTS if c.startswith("prompt.")),
    "decoder": tuple(c for c in COMPONENTS if c.startswith("decoder.") and c not in ADDED),
    "decoder.transformer": ("decoder.attn", "decoder.mlp", "decoder.norm"),
}
"""Names that stand for several components."""


def component_of(name: str) -> str:
    """The component to which a parameter belongs.

    Example:
        >>> component_of("image_encoder.blocks.3.attn.qkv.weight")
        'encoder.attn'
        >>> component_of("image_encoder.blocks.3.attn.lora_q.A")
        'encoder.lora'

    Raises:
        KeyError: The name is of no parameter of SAM.
    """
    for component, pattern in _COMPILED.items():
        if pattern.match(name):
            return component
    raise KeyError(name)


def expand(names: Iterable[str], option: str = "model.train") -> frozenset[str]:
    """The components that component and group names stand for.

    Example:
        >>> sorted(expand(["decoder.transformer", "encoder.lora"]))
        ['decoder.attn', 'decoder.mlp', 'decoder.norm', 'encoder.lora']

    Raises:
        UsageError: A name is neither a component nor a group.
    """
    chosen: set[str] = set()
    for name in names:
        if name not in GROUPS and name not in COMPONENTS:
            known = [*GROUPS, *COMPONENTS]
            close = nearest(name, known)
            raise UsageError(
                f"{option} must name components ({', '.join(known)}), got {name!r}" + (close and f"; {close}")
            )
        chosen.update(GROUPS.get(name, (name,)))
    return frozenset(chosen)
