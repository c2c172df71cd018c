"""Write a model in the layout of its own, of OpenAI (and open_clip), or of Hugging Face."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPConfig

from finelip.checkpoints.layouts import Layout, to_huggingface
from finelip.checkpoints.read import load_clip, read_clip
from finelip.checkpoints.tokenizer_files import write_tokenizer
from finelip.finelip import FineLIP
from finelip.positions import positions_from_tables
from finelip.tokenizer import EOS, SOT
from shared.checkpoints import FORMAT, save_tensors
from shared.errors import UsageError


def one_table(model: FineLIP) -> dict[str, Tensor]:
    """The weights of a model as a plain CLIP's: one table of positions, no aggregators."""
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("cross_net.")}
    frozen, trained = state["positional_embedding"], state.pop("positional_embedding_res")
    return state | {"positional_embedding": positions_from_tables(frozen, trained, model.keep, len(trained))}


def write_clip(model: FineLIP, path: Path, layout: Layout = "finelip") -> None:
    """Write a model; the file or folder is whole or absent.

    Args:
        model: What to write.
        path: A ``.safetensors`` file, or for ``huggingface`` a folder that does not exist yet.
        layout: ``finelip`` holds everything. ``openai`` and ``open_clip`` (one layout, two names) hold the CLIP with
            its stretched positions in one table, and ``huggingface`` the same as ``transformers.CLIPModel`` reads it.

    Raises:
        UsageError: The path does not fit the layout.
    """
    if layout == "huggingface":
        write_huggingface(model, path)
        return
    if path.suffix != ".safetensors":
        raise UsageError(f"--out must end in .safetensors for the layout {layout}, got {path}")
    about: dict[str, Any] = {"format": FORMAT, "layout": layout, "backbone": model.config, "options": model.options}
    tensors = model.state_dict() if layout == "finelip" else one_table(model)
    save_tensors(path, tensors, {"finelip": json.dumps(about)})


def huggingface_config(model: FineLIP) -> CLIPConfig:
    """The config with which transformers builds the same towers."""
    vision, text = model.config["vision_cfg"], model.config["text_cfg"]
    activation = "quick_gelu" if model.quick_gelu else "gelu"
    both = {"hidden_act": activation, "projection_dim": model.dim}
    return CLIPConfig(
        text_config=both
        | {
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": model.context_length,
            "bos_token_id": SOT,
            "eos_token_id": EOS,
        },
        vision_config=both
        | {
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        projection_dim=model.dim,
        logit_scale_init_value=float(model.logit_scale.detach()),
        architectures=["CLIPModel"],
    )


def write_huggingface(model: FineLIP, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer; see :func:`write_clip`."""
    if folder.exists():
        raise UsageError(f"--out must not exist yet for the layout hf, got {folder}")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    huggingface_config(model).save_pretrained(temporary)
    save_tensors(temporary / "model.safetensors", to_huggingface(one_table(model)), {"format": "pt"})
    write_tokenizer(temporary, model.context_length)
    temporary.rename(folder)


def read_model(path: Path, option: str = "model.init", **changes: Any) -> FineLIP:
    """The model in a file that :func:`write_clip` wrote in the layout ``finelip``.

    Args:
        path: The file.
        option: Name of the option that gave the path, for the error message.
        changes: Options of :class:`~finelip.finelip.FineLIP` to build it with instead of the written ones.

    Raises:
        UsageError: It is another file.
    """
    weights = read_clip(path, option)
    if weights.about is None or weights.layout != "finelip":
        raise UsageError(f"{option} must be a file that finelip wrote with all its weights, got {path}")
    model = FineLIP(weights.about["backbone"], **(weights.about["options"] | changes))
    load_clip(model, weights, option, require_aggregators=True)
    return model.eval()
