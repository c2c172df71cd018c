"""Trained models out: merged weights, a checkpoint for ``segment_anything``, adapters alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import Tensor

from fedsam import __version__
from fedsam.components import ADDED, component_of
from fedsam.image_encoder import EncoderAttention
from fedsam.mask_decoder import DecoderAttention
from fedsam.sam import Sam
from fedsam.sam_checkpoint import is_global_relative, resize_absolute, resize_relative
from shared.checkpoints import load_tensors, require_same_tensors, save_tensors
from shared.errors import UsageError

FORMAT = "fedsam-adapters-1"
"""What the metadata of a file of adapters says it is."""


@torch.no_grad()
def merged_state(model: Sam) -> dict[str, Tensor]:
    """The state of ``model`` with LoRA, DoRA and FacT folded into the plain weights, under SAM's names.

    The result loads into the same model built without those components. Adapters between slices are no linear maps
    of weights; they are kept under their own names.
    """
    merged = {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name.endswith("positional_encoding_gaussian_matrix")
        or component_of(name) not in ADDED - {"encoder.adapters"}
    }
    for name, module in model.adapted_modules():
        query, value = module.adapted_weights()
        if isinstance(module, EncoderAttention):
            width = len(query)
            merged[f"{name}.qkv.weight"][:width] = query
            merged[f"{name}.qkv.weight"][-width:] = value
        elif isinstance(module, DecoderAttention):
            merged[f"{name}.q_proj.weight"] = query.clone()
            merged[f"{name}.v_proj.weight"] = value.clone()
    return merged


@dataclass(frozen=True)
class StockExport:
    """How an exported checkpoint compares with one of the published SAM.

    Attributes:
        written: Keys in the file: those that the published SAM has, in its shapes but for the positions' grid.
        absent: Keys that the published SAM has and the file lacks, since the trained model has none of that shape.
        left_out: Keys of the trained model that the published SAM has no place for.
        image_size: Image size to which the positions belong.
    """

    written: tuple[str, ...]
    absent: tuple[str, ...]
    left_out: tuple[str, ...]
    image_size: int

    def __str__(self) -> str:
        parts = [f"{len(self.written)} tensors of a SAM for images of {self.image_size} pixels"]
        for word, names in (("absent", self.absent), ("left out", self.left_out)):
            if names:
                owners = sorted({".".join(name.split(".")[:2]) for name in names})
                parts.append(f"{len(names)} {word} ({', '.join(owners)})")
        return "; ".join(parts)


def stock_sam_state(model: Sam, image_size: int | None = None) -> tuple[dict[str, Tensor], StockExport]:
    """Merged weights under the names that ``segment_anything`` knows, and what could not be expressed so.

    The published decoder has four mask tokens with hypernetworks for a map of 1/8 of the width. A model with another
    number of classes or with 16-fold up-sampling has no such tensors; those parts are absent, and a reader has to
    bring its own.

    Args:
        model: The trained model.
        image_size: Image size to whose grid positions are resized; ``segment_anything``'s registry builds models for
            1024. ``None``: they stay as they are.

    Raises:
        UsageError: The model has adapters between slices, for which a plain SAM has no place, or the size is none.
    """
    if not model.slice_wise:
        raise UsageError("a model with adapters between slices cannot be written as a plain SAM")
    side = model.image_size if image_size is None else image_size
    if side < 1 or side % model.measures.patch:
        raise UsageError(f"--image_size must be a positive multiple of {model.measures.patch}, got {side}")
    grid = side // model.measures.patch
    merged = merged_state(model)
    for name, tensor in merged.items():
        if name == "image_encoder.pos_embed":
            merged[name] = resize_absolute(tensor, grid)
        elif is_global_relative(name, model.measures):
            merged[name] = resize_relative(tensor, 2 * grid - 1)
    size = model.measures
    with torch.device("meta"):
        stock = MaskDecoder(
            transformer_dim=size.prompt_width,
            transformer=TwoWayTransformer(2, size.prompt_width, size.decoder_heads, size.decoder_mlp),
            iou_head_hidden_dim=size.prompt_width,
        )
    wanted = {f"mask_decoder.{name}": tensor.shape for name, tensor in stock.state_dict().items()}
    state = {
        name: tensor
        for name, tensor in merged.items()
        if not name.startswith("mask_decoder.") or wanted.get(name) == tensor.shape
    }
    report = StockExport(
        written=tuple(state),
        absent=tuple(name for name in wanted if name not in state),
        left_out=tuple(name for name in merged if name not in state),
        image_size=side,
    )
    return state, report


def export_stock_sam(model: Sam, path: Path, image_size: int | None = None) -> StockExport:
    """Write :func:`stock_sam_state` to ``path``: safetensors by that suffix, else what ``torch.load`` reads.

    ``segment_anything`` itself reads the latter.
    """
    state, report = stock_sam_state(model, image_size)
    state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_tensors(path, state, {"format": "sam", "image_size": str(report.image_size)})
        return report
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
    return report


# ---------------------------------------------------------------------- adapters alone


def adapter_metadata(model: Sam) -> dict[str, str]:
    """What a file of adapters says about the model that it was made for."""
    options = {
        "size": model.size,
        "num_classes": model.num_classes,
        "train": sorted(model.plan.components),
        "rank": model.plan.rank,
        "upsampling": model.plan.upsampling,
        "alpha": model.lora.alpha,
        "num_lora": model.lora.num,
        "dora": model.lora.dora,
        "adapter_channels": model.adapter_channels,
    }
    if any(name.startswith("encoder.") and name not in ADDED for name in model.plan.components):
        options["image_size"] = model.image_size  # trained positions belong to one grid
    return {
        "format": FORMAT,
        "fedsam": __version__,
        "image_size": str(model.image_size),
        "options": json.dumps(options, sort_keys=True),
    }


def adapter_tensors(model: Sam, personal: bool = False) -> dict[str, Tensor]:
    """The trained tensors that travel, by name; with ``personal`` also those that stay with a client."""
    parameters = dict(model.named_parameters())
    names = model.trainable_names() + (model.personal_names() if personal else [])
    return {name: parameters[name].detach() for name in names}


def save_adapters(model: Sam, path: Path, personal: bool = False, metadata: Mapping[str, str] | None = None) -> int:
    """Write what was trained, and nothing else, as safetensors; what it was trained on top of is not in the file.

    Args:
        model: The trained model.
        path: The file.
        personal: Whether to write what stays with a client too.
        metadata: What the file says beside :func:`adapter_metadata`.

    Returns:
        Bytes of the tensors: for ViT-B, FLAP-SAM and two classes 7,385,536.
    """
    tensors = adapter_tensors(model, personal)
    save_tensors(path, tensors, {**adapter_metadata(model), **(metadata or {})})
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_adapters(model: Sam, path: Path) -> None:
    """Put the tensors of :func:`save_adapters` onto a model that was built alike and has its base weights.

    Raises:
        UsageError: No such file, no adapters, or those of a model that was built otherwise.
    """
    tensors = load_tensors(path, "adapters")
    found = _metadata(path)
    if found.get("format") != FORMAT:
        raise UsageError(f"adapters must be a file written by fedsam, got {path}")
    theirs, ours = json.loads(found["options"]), json.loads(adapter_metadata(model)["options"])
    for option in sorted(theirs.keys() | ours.keys()):
        if theirs.get(option) != ours.get(option):
            raise UsageError(
                f"adapters {path} belong to a model with {option} {theirs.get(option)}, this one has {ours.get(option)}"
            )
    personal = any(name in tensors for name in model.personal_names())
    wanted = adapter_tensors(model, personal)
    require_same_tensors(tensors, wanted, what=f"adapters {path}")
    _copy(tensors, model)


def _metadata(path: Path) -> Mapping[str, str]:
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], model: Sam) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)
