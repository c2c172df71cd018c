"""Read a CLIP, a Long-CLIP or a FineLIP from a file, and load it strictly into a model."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from finelip.checkpoints.layouts import Layout, layout_of, openai_names, without_prefix
from finelip.finelip import FineLIP
from finelip.positions import stretch
from finelip.towers import backbone_config, backbone_names
from shared.checkpoints import compare_tensors, load_tensors, sha256_of
from shared.errors import UsageError

Activation = Literal["quick_gelu", "gelu"]

RECORD = "finelip"
"""Where a checkpoint of ``finelip fit`` says what it holds."""

AGGREGATORS = "cross_net."
MAY_BE_ABSENT = (AGGREGATORS, "positional_embedding_res")
"""All that a model may want and a file need not have: CLIP has neither, Long-CLIP not the first."""


@dataclass(frozen=True)
class ClipWeights:
    """What a file holds, under OpenAI's names.

    Attributes:
        tensors: In float32.
        layout: In which the file was.
        activation: Of the blocks, where the file tells.
        sha256: Of the file; of a folder, of its weight file.
        about: What files of this project say of the model: its config and options.
    """

    tensors: dict[str, Tensor]
    layout: Layout
    activation: Activation | None
    sha256: str
    about: dict[str, Any] | None = None


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors; names of the model, but for ``unused``.

    Attributes:
        matched: Taken as they are.
        stretched: Tables of positions made from a shorter one.
        new: Not in the file, as :data:`MAY_BE_ABSENT` allows: still as drawn.
        unused: In the file only: aggregators of a side that the model does not refine.
    """

    matched: tuple[str, ...]
    stretched: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors match"]
        for word, found in (("stretched", self.stretched), ("new", self.new), ("unused", self.unused)):
            if found:
                parts.append(f"{len(found)} {word} ({found[0]}{', …' if len(found) > 1 else ''})")
        return ", ".join(parts)


def read_clip(path: Path, option: str = "model.init") -> ClipWeights:
    """Read the weights of a CLIP in any layout.

    Args:
        path: A ``.safetensors`` file, a checkpoint that is read without unpickling, or a folder of Hugging Face with
            ``config.json`` and ``model.safetensors``.
        option: Name of the option that gave the path, for the error message.

    Raises:
        UsageError: Nothing there, damaged, an archive of code, or no CLIP.
    """
    config: dict[str, Any] | None = None
    if path.is_dir():
        config = huggingface_config(path, option)
        path = path / "model.safetensors"
    if is_torchscript(path):
        raise UsageError(
            f"{option} must hold tensors alone, got the TorchScript archive {path}: open it where you trust it and "
            "save torch.jit.load(file).state_dict()"
        )
    raw = load_tensors(path, option)
    tensors = without_prefix(raw)
    layout = layout_of(tensors)
    if layout is None:
        raise UsageError(f"{option} must hold a CLIP with a ViT in the layout of OpenAI or Hugging Face, got {path}")
    from_openai = not {"input_resolution", "context_length", "vocab_size"}.isdisjoint(raw)
    about = own_metadata(path)
    return ClipWeights(
        # Half precision goes first: interpolated positions must not be rounded.
        {name: tensor.float() for name, tensor in openai_names(tensors).items()},
        layout,
        activation_of(layout, config, about, from_openai),
        sha256_of(path),
        about,
    )


def huggingface_config(folder: Path, option: str) -> dict[str, Any]:
    """The ``config.json`` of a Hugging Face folder.

    Raises:
        UsageError: The folder is not one of a CLIP.
    """
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise UsageError(f"{option} must be a file or a folder with config.json and model.safetensors, got {folder}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{option} has a damaged config.json: {folder}") from error
    if not isinstance(config, dict) or config.get("model_type") != "clip":
        raise UsageError(f"{option} must be the folder of a CLIPModel, got {folder}")
    return config


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, which holds code beside tensors."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def own_metadata(path: Path) -> dict[str, Any] | None:
    """What this project wrote into the head of a safetensors file, if it did."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        head = file.metadata() or {}
    return json.loads(head["finelip"]) if "finelip" in head else None


def activation_of(
    layout: Layout, config: Mapping[str, Any] | None, about: Mapping[str, Any] | None, from_openai: bool
) -> Activation | None:
    """The activation that a file tells of.

    OpenAI's files and what is trained from them (Long-CLIP, FineLIP) have ``quick_gelu``; open_clip's do not tell.
    """
    if about is not None:
        return "quick_gelu" if about["backbone"].get("quick_gelu") else "gelu"
    if config is not None:
        named = {config.get(part, {}).get("hidden_act", "quick_gelu") for part in ("text_config", "vision_config")}
        return "quick_gelu" if named == {"quick_gelu"} else "gelu"
    return "quick_gelu" if from_openai or layout == "finelip" else None


def shape_of(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """What tells architectures apart: widths, layers, patch, grid of positions, joint width."""
    layers = [
        len({name.split(".resblocks.")[1].split(".")[0] for name in tensors if name.startswith(f"{tower}.resblocks.")})
        for tower in ("visual.transformer", "transformer")
    ]
    return (
        *tensors["visual.conv1.weight"].shape[::3],
        len(tensors["visual.positional_embedding"]),
        tensors["token_embedding.weight"].shape[1],
        tensors["text_projection"].shape[1],
        *layers,
    )


def backbone_of(weights: ClipWeights, option: str = "model.init") -> str:
    """The name of the backbone whose shapes weights have.

    Where the file does not tell the activation, the name without ``-quickgelu`` is taken.

    Raises:
        UsageError: None has.
    """
    try:
        wanted = shape_of(weights.tensors)
    except KeyError as error:
        raise UsageError(f"{option} must hold a whole CLIP, but {error} is missing") from error
    for name in backbone_names():
        config = backbone_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        own = (
            *(vision["width"], vision["patch_size"], (vision["image_size"] // vision["patch_size"]) ** 2 + 1),
            *(text["width"], config["embed_dim"], vision["layers"], text["layers"]),
        )
        fits = bool(config.get("quick_gelu")) == (weights.activation == "quick_gelu") or name == "clip_tiny"
        if own == wanted and fits:
            return name
    raise UsageError(f"{option} must have the shapes of a known backbone, got widths, patches and layers {wanted}")


def load_clip(
    model: FineLIP, weights: ClipWeights, option: str = "model.init", require_aggregators: bool = False
) -> LoadReport:
    """Load weights into a model, all of them or a refusal.

    A table of 77 positions is stretched as the model was built to do; one of the model's own length is taken for both
    tables.

    Args:
        model: What to load into.
        weights: What to load.
        option: Name of the option that gave them, for the error message.
        require_aggregators: Refuse weights without aggregators, as where a trained FineLIP is to be evaluated.

    Raises:
        UsageError: A tensor is missing that must not be, is of another shape or one too many, or activations differ.
    """
    wanted = model.state_dict()
    found = dict(weights.tensors)
    own: Activation = "quick_gelu" if model.quick_gelu else "gelu"
    if weights.activation not in (None, own):
        raise UsageError(
            f"{option} was trained with the activation {weights.activation}, but the backbone has {own}: choose the "
            f"backbone {'whose name ends' if own == 'gelu' else 'of the same name, but not'} in -quickgelu"
        )
    if "logit_scale" in found:
        found["logit_scale"] = found["logit_scale"].reshape(())
    stretched: tuple[str, ...] = ()
    table = found.get("positional_embedding")
    if table is not None and "positional_embedding_res" not in found:
        if table.shape != wanted["positional_embedding"].shape:
            table = stretched_table(model, table, option)
            stretched = ("positional_embedding", "positional_embedding_res")
        found["positional_embedding"] = found["positional_embedding_res"] = table
    aggregators = [name for name in found if name.startswith(AGGREGATORS)]
    sides = {name.rpartition("net.")[0] for name in wanted if name.startswith(AGGREGATORS)}
    unused = tuple(name for name in aggregators if name.rpartition("net.")[0] not in sides)
    for name in unused:
        del found[name]
    new: tuple[str, ...] = ()
    if not aggregators and not require_aggregators:
        new = tuple(name for name in wanted if name.startswith(AGGREGATORS))
    report = compare_tensors(found, {name: t for name, t in wanted.items() if name not in new})
    if not report.complete:
        raise UsageError(f"{option} belongs to another model: {report}")
    with torch.no_grad():
        for name in report.matched:
            wanted[name].copy_(found[name])
    return LoadReport(tuple(n for n in report.matched if n not in stretched), stretched, new, unused)


def stretched_table(model: FineLIP, table: Tensor, option: str) -> Tensor:
    """A table of positions stretched as the model's options say.

    Raises:
        UsageError: It does not come out at the model's length.
    """
    width = model.positional_embedding.shape[1]
    if table.shape[1] != width:
        raise UsageError(f"{option} belongs to another model: its texts are {table.shape[1]} wide, not {width}")
    longer = stretch(table, model.stretch_by, model.keep, model.ratio)
    if longer.shape != model.positional_embedding.shape:
        raise UsageError(
            f"{option} has {len(table)} text positions, which do not become the {model.context_length} of this model"
        )
    return longer
