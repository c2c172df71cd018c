"""The text tower alone with its tokenizer, as pipelines of Hugging Face and programs built on them read it."""

import json
import shutil
from pathlib import Path
from typing import Any

from finelip.checkpoints.layouts import to_huggingface
from finelip.checkpoints.tokenizer_files import write_tokenizer
from finelip.checkpoints.write import huggingface_config, one_table
from finelip.finelip import FineLIP
from shared.atomic import write_text
from shared.checkpoints import save_tensors
from shared.errors import UsageError


def text_encoder_config(model: FineLIP, projection: bool) -> dict[str, Any]:
    """The ``config.json`` of a ``CLIPTextModel``, or of one with its projection."""
    text: Any = huggingface_config(model).text_config
    return text.to_dict() | {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "dtype": "float32",
    }


def write_text_encoder(model: FineLIP, folder: Path, projection: bool = False) -> None:
    """Write ``text_encoder/`` and ``tokenizer/`` as SDXL's first text encoder has them; whole or absent.

    ``text_encoder/model.safetensors`` is at the same time the single file that node-based programs load.

    Args:
        model: Of which the text tower is written, positions in one table.
        folder: Does not exist yet.
        projection: With the projection of the end token, as SDXL's second encoder has it (``text_encoder_2``).

    Raises:
        UsageError: The folder exists.
    """
    if folder.exists():
        raise UsageError(f"--out must not exist yet for a text encoder, got {folder}")
    number = "_2" if projection else ""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    encoder = temporary / f"text_encoder{number}"
    encoder.mkdir(parents=True)
    wanted = ("text_model.", "text_projection.") if projection else ("text_model.",)
    tensors = {name: t for name, t in to_huggingface(one_table(model)).items() if name.startswith(wanted)}
    save_tensors(encoder / "model.safetensors", tensors, {"format": "pt"})
    write_text(encoder / "config.json", json.dumps(text_encoder_config(model, projection), indent=2) + "\n")
    (temporary / f"tokenizer{number}").mkdir()
    write_tokenizer(temporary / f"tokenizer{number}", model.context_length)
    temporary.rename(folder)
