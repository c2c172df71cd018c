"""Names of CLIP's tensors in OpenAI's layout and in that of Hugging Face, and back, without changing a bit."""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["openai", "open_clip", "huggingface", "finelip"]
"""``openai``: one table of positions; ``open_clip``: the same names; ``finelip``: two tables and the aggregators."""

WHOLE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # spelled so
    "visual.ln_post": "vision_model.post_layernorm",
}
TOWERS = {"transformer": "text_model", "visual.transformer": "vision_model"}
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
QKV = ("q", "k", "v")
PARTS = ("weight", "bias")

IGNORED = (
    r"input_resolution|context_length|vocab_size",  # numbers in OpenAI's files
    r"(.*\.)?attn_mask",  # of old open_clip versions
    r"(text|vision)_model\.embeddings\.position_ids",  # of old transformers versions
)
"""Entries that are no weights."""

PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "network.")


def blocks(state: Mapping[str, Tensor], tower: str) -> int:
    """Number of blocks of a tower, ``transformer`` or ``visual.transformer``, in OpenAI's names."""
    return len({m[1] for name in state if (m := re.match(rf"{re.escape(tower)}\.resblocks\.(\d+)\.", name))})


def names(layers: Mapping[str, int]) -> dict[str, str]:
    """OpenAI's names to those of Hugging Face for the tensors that are the same in both.

    Args:
        layers: Blocks of each of :data:`TOWERS`.
    """
    found = dict(WHOLE)
    found |= {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in NORMS.items() for part in PARTS}
    for tower, theirs in TOWERS.items():
        for layer in range(layers[tower]):
            found |= {
                f"{tower}.resblocks.{layer}.{a}.{part}": f"{theirs}.encoder.layers.{layer}.{b}.{part}"
                for a, b in BLOCK.items()
                for part in PARTS
            }
    return found


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with OpenAI's names and one table of positions as that of ``transformers.CLIPModel``."""
    layers = {tower: blocks(state, tower) for tower in TOWERS}
    found = {theirs: state[ours] for ours, theirs in names(layers).items()}
    found |= {theirs: state[ours].T for ours, theirs in TRANSPOSED.items()}
    for tower, theirs in TOWERS.items():
        for layer in range(layers[tower]):
            for part in PARTS:
                joint = state[f"{tower}.resblocks.{layer}.attn.in_proj_{part}"]
                for letter, own in zip(QKV, joint.chunk(3), strict=True):
                    found[f"{theirs}.encoder.layers.{layer}.self_attn.{letter}_proj.{part}"] = own
    return found


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``transformers.CLIPModel`` under OpenAI's names; entries that belong to no CLIP keep theirs."""
    layers = {
        tower: len({m[1] for name in state if (m := re.match(rf"{theirs}\.encoder\.layers\.(\d+)\.", name))})
        for tower, theirs in TOWERS.items()
    }
    rest = dict(state)
    found = {ours: rest.pop(theirs) for ours, theirs in names(layers).items() if theirs in rest}
    found |= {ours: rest.pop(theirs).T for ours, theirs in TRANSPOSED.items() if theirs in rest}
    for tower, theirs in TOWERS.items():
        for layer in range(layers[tower]):
            for part in PARTS:
                keys = [f"{theirs}.encoder.layers.{layer}.self_attn.{letter}_proj.{part}" for letter in QKV]
                if all(key in rest for key in keys):
                    joint = torch.cat([rest.pop(key) for key in keys])
                    found[f"{tower}.resblocks.{layer}.attn.in_proj_{part}"] = joint
    return found | rest


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the words that wrappers put before every name, and entries that are no weights.

    Example:
        >>> sorted(without_prefix({"module.logit_scale": torch.zeros(()), "module.visual.proj": torch.zeros(2, 2)}))
        ['logit_scale', 'visual.proj']
    """
    found = dict(state)
    while prefix := next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in found.items() if not any(re.fullmatch(p, name) for p in IGNORED)}


def layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    """The layout that names tell, or ``None`` where they are no CLIP's.

    Example:
        >>> layout_of({"visual.proj": torch.zeros(1), "text.text_projection": torch.zeros(1)})
        'open_clip'
    """
    if "text_model.embeddings.token_embedding.weight" in state:
        return "huggingface"
    if "visual.proj" not in state:
        return None
    if "positional_embedding_res" in state:
        return "finelip"
    return "open_clip" if any(name.startswith("text.") for name in state) else "openai"


def openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of any layout under OpenAI's names."""
    found = without_prefix(state)
    layout = layout_of(found)
    if layout == "huggingface":
        return from_huggingface(found)
    if layout == "open_clip":  # models with a text tower of their own name it
        return {name.removeprefix("text."): tensor for name, tensor in found.items()}
    return found
