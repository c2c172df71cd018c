"""Both towers as ONNX graphs, with as many items and tokens as one likes, checked against the model."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finelip.finelip import FineLIP
from finelip.positions import positions_from_tables
from finelip.tokenizer import EOS, SOT
from finelip.towers import text_tokens
from shared.errors import RunError, UsageError

NEEDED = ("onnx", "onnxscript")
OUTPUTS = {"image": ("vector", "tokens"), "text": ("vector", "tokens", "mask")}
PARITY = 1e-4
"""Largest difference of unit vectors that counts as equal."""


class ImageTower(nn.Module):
    """``(B, 3, S, S)`` normalised images to global vectors and sets."""

    def __init__(self, model: FineLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vector, tokens = self.model.encode_image(images)
        return vector, tokens


class TextTower(nn.Module):
    """``(B, L)`` ids to global vectors, sets and masks; the end token tells each length."""

    def __init__(self, model: FineLIP) -> None:
        super().__init__()
        self.model = model
        tables = (model.positional_embedding.detach(), model.positional_embedding_res.detach())
        self.register_buffer("positions", positions_from_tables(*tables, model.keep, model.context_length))
        self.positions: Tensor

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, length = self.model, ids.shape[1]
        parts = (model.token_embedding, model.transformer, model.ln_final, model.text_projection)
        tokens = text_tokens(ids, self.positions[:length], *parts, model.causal_mask[:length, :length])
        vector, refined, mask = model.refine_text(tokens, (ids == EOS).int().argmax(1) + 1)
        return vector, refined, mask


def examples(model: FineLIP, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Images of noise, and texts of random words that end at different places, the first at the very end."""
    generator = torch.Generator().manual_seed(batch + length)
    images = torch.randn(batch, 3, model.image_size, model.image_size, generator=generator)
    ids = torch.zeros(batch, length, dtype=torch.long)
    for row in range(batch):
        end = length - 1 - row % max(1, length - 2)
        ids[row, 1:end] = torch.randint(300, 40_000, (end - 1,), generator=generator)
        ids[row, 0], ids[row, end] = SOT, EOS
    return images, ids


def require_onnx() -> None:
    """Refuse where the exporter's packages are missing.

    Raises:
        UsageError: Names them.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"--layout onnx needs the packages {' and '.join(NEEDED)}, missing: {', '.join(missing)}")


def write_onnx(model: FineLIP, folder: Path) -> dict[str, float]:
    """Write ``image.onnx`` and ``text.onnx``, whole or not at all.

    Inputs: ``images`` ``(batch, 3, S, S)`` normalised; ``ids`` ``(batch, length)``, with an end token in each text, of
    any length up to the model's. Outputs as of :meth:`FineLIP.encode_image` and :meth:`FineLIP.encode_text`.

    Args:
        model: In evaluation mode, on the CPU.
        folder: Does not exist yet.

    Returns:
        Largest difference to the model of each graph, run at other sizes than it was traced with: by onnxruntime where
        it is installed, else of the traced program by torch.

    Raises:
        UsageError: Packages are missing, the folder exists, or the image set depends on the text.
        RunError: A graph does not compute what the model does.
    """
    require_onnx()
    if model.pairwise:
        raise UsageError(f"--layout onnx needs sets that stand alone, got a model with refinement {model.refinement}")
    if folder.exists():
        raise UsageError(f"--out must not exist yet for the layout onnx, got {folder}")
    temporary = folder.with_name(folder.name + ".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    images, ids = examples(model, 2, 9)
    gaps = {}
    for name, tower, example, dynamic in (
        ("image", ImageTower(model), images, {"images": {0: "batch"}}),
        ("text", TextTower(model), ids, {"ids": {0: "batch", 1: "length"}}),
    ):
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(dynamic),
            output_names=list(OUTPUTS[name]),
            verbose=False,
        )
        assert program is not None
        program.save(temporary / f"{name}.onnx")
        gaps[name] = parity(tower, program, temporary / f"{name}.onnx", model, name)
    temporary.rename(folder)
    return gaps


@torch.no_grad()
def parity(tower: nn.Module, program: Any, file: Path, model: FineLIP, name: str) -> float:
    """Largest difference between a graph and its tower over several sizes.

    Raises:
        RunError: It is more than rounding.
    """
    run = runner(file, program)
    worst = 0.0
    for batch, length in ((1, 3), (3, 21), (2, model.context_length)):
        example = examples(model, batch, length)[name == "text"]
        for found, wanted in zip(run(example), tower(example), strict=True):
            worst = max(worst, float((found.float() - wanted.float()).abs().max()))
    if not worst <= PARITY:
        raise RunError(f"the graph {file.name} differs from the model by {worst:.2g}, more than {PARITY}")
    return worst


def runner(file: Path, program: Any) -> Any:
    """What runs a graph: onnxruntime, else torch the program that it was written from."""
    if find_spec("onnxruntime") is None:
        return program.exported_program.module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda example: [torch.from_numpy(found) for found in session.run(None, {name: example.numpy()})]
