"""Read a checkpoint of the published SAM into a model of another image size and with other heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsam.components import ADDED, component_of
from fedsam.sizes import SIZES, Size
from shared.checkpoints import load_tensors, sha256_of
from shared.errors import UsageError

if TYPE_CHECKING:
    from fedsam.sam import Sam

HEADS = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")
"""Parts of the decoder whose shapes depend on the number of masks; a checkpoint need not provide them."""

SHIPPED = Path(__file__).with_name("weights") / "sam_tiny.safetensors"
"""The shipped weights of size ``tiny``, made by ``tools/pretrain_sam_tiny.py``; see the README beside them."""

_STOCK_UPSCALING = tuple(f"mask_decoder.output_upscaling.{index}." for index in (0, 1, 3))


@dataclass(frozen=True)
class ImportReport:
    """What became of the tensors of a checkpoint and of the model; keys of the model, but for ``unused``.

    Attributes:
        matched: Taken as they are.
        resized: Positions, taken by bilinear interpolation.
        new: Not in the file in a fitting shape: still as drawn.
        unused: In the file only, or dropped with the heads.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors match"]
        for word, names in (("resized", self.resized), ("new", self.new), ("unused", self.unused)):
            if names:
                parts.append(f"{len(names)} {word} ({names[0]}{', …' if len(names) > 1 else ''})")
        return ", ".join(parts)


def resize_absolute(positions: Tensor, grid: int) -> Tensor:
    """Absolute positions (1, h, w, D) to (1, grid, grid, D): bilinear, corners not aligned, no antialiasing."""
    if positions.shape[1:3] == (grid, grid):
        return positions
    image = positions.float().permute(0, 3, 1, 2)
    resized = F.interpolate(image, (grid, grid), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(positions.dtype)


def resize_relative(positions: Tensor, rows: int) -> Tensor:
    """Relative positions (L, c) to (rows, c): bilinear, read as an image of one channel."""
    if len(positions) == rows:
        return positions
    image = positions.float()[None, None]
    resized = F.interpolate(image, (rows, positions.shape[1]), mode="bilinear", align_corners=False)
    return resized[0, 0].to(positions.dtype)


def is_global_relative(name: str, size: Size) -> bool:
    """Whether ``name`` is that of relative positions in a block that attends over the whole image."""
    parts = name.split(".")
    return parts[-1] in {"rel_pos_h", "rel_pos_w"} and int(parts[2]) in size.global_blocks


def resize_positions(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """Positions of ``tensors`` that have another shape in ``wanted``, resized to it."""
    resized = {}
    for name, tensor in tensors.items():
        if name not in wanted or tensor.shape == wanted[name].shape or tensor.ndim != wanted[name].ndim:
            continue
        if name == "image_encoder.pos_embed" and tensor.shape[-1] == wanted[name].shape[-1]:
            resized[name] = resize_absolute(tensor, wanted[name].shape[1])
        elif name.startswith("image_encoder.blocks.") and is_global_relative(name, size):
            resized[name] = resize_relative(tensor, len(wanted[name]))
    return resized


def fit_checkpoint(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    size: Size,
    head_init: Literal["reference", "fresh"] = "reference",
) -> tuple[dict[str, Tensor], ImportReport]:
    """Choose and resize what a checkpoint gives to a model; the rules of the authors' code, made explicit.

    Of the heads (:data:`HEADS`) ``fresh`` takes nothing and ``reference`` every tensor whose name and shape agree. All
    else is taken by name; positions are resized to the model's grid, in windowed blocks they keep their rows.

    Args:
        found: Tensors of the file.
        wanted: State of the model.
        size: The model's measures.
        head_init: See above.

    Returns:
        The tensors to load, and the report.

    Raises:
        UsageError: ``head_init`` is neither of the two.
    """
    if head_init not in {"reference", "fresh"}:
        raise UsageError(f"model.head_init must be reference or fresh, got {head_init!r}")
    usable = {name: t for name, t in found.items() if head_init == "reference" or not name.startswith(HEADS)}
    resized = resize_positions(usable, wanted, size)
    matched = {name: t for name, t in usable.items() if name in wanted and t.shape == wanted[name].shape}
    taken = matched | {name: t for name, t in resized.items() if t.shape == wanted[name].shape}
    report = ImportReport(
        matched=tuple(name for name in wanted if name in matched),
        resized=tuple(name for name in wanted if name in taken and name not in matched),
        new=tuple(name for name in wanted if name not in taken),
        unused=tuple(name for name in found if name not in taken),
    )
    return taken, report


def _is_needed(name: str) -> bool:
    """Whether a published SAM has the tensor in the same shape, so that a file without it is not whole."""
    if name.endswith("positional_encoding_gaussian_matrix"):
        return True
    if name.startswith(HEADS) or component_of(name) in ADDED:
        return False
    return not name.startswith("mask_decoder.output_upscaling.") or name.startswith(_STOCK_UPSCALING)


def _describe(width: int, depth: int) -> str:
    for name, size in SIZES.items():
        if (size.width, size.depth) == (width, depth):
            return f"{name} (width {width}, depth {depth})"
    return f"of unknown size (width {width}, depth {depth})"


def _require_size(path: Path, tensors: Mapping[str, Tensor], size: Size) -> None:
    weight = tensors.get("image_encoder.patch_embed.proj.weight")
    if weight is None:
        raise UsageError(f"model.init must be a SAM checkpoint, got {path} without image_encoder.patch_embed")
    depth = len({name.split(".")[2] for name in tensors if name.startswith("image_encoder.blocks.")})
    if (weight.shape[0], depth) != (size.width, size.depth):
        raise UsageError(
            f"model.init {path} is a SAM {_describe(weight.shape[0], depth)}, "
            f"but model.size asks for {_describe(size.width, size.depth)}"
        )


def load_checkpoint(model: "Sam", path: Path, head_init: Literal["reference", "fresh"] = "reference") -> ImportReport:
    """Load a SAM checkpoint (``.pth`` or ``.safetensors``, never unpickled) into a model.

    Raises:
        UsageError: No such file, a file of another size, or one that lacks what every SAM has.
    """
    found = load_tensors(path, "model.init")
    _require_size(path, found, model.measures)
    own = model.state_dict()
    taken, report = fit_checkpoint(found, own, model.measures, head_init)
    lacking = [name for name in report.new if _is_needed(name)]
    if lacking:
        misshapen = [name for name in lacking if name in found]
        what = f"of another shape ({misshapen[0]})" if misshapen else f"missing ({lacking[0]})"
        raise UsageError(f"model.init {path} lacks {len(lacking)} tensors that the model needs, {what}: {report}")
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)
    model.reset_magnitudes()
    return report


def initialise(model: "Sam", init: str, head_init: Literal["reference", "fresh"]) -> None:
    """Give a new model the initial weights that ``init`` names; see :class:`fedsam.sam.Sam`.

    Raises:
        UsageError: See :func:`load_checkpoint`; or ``tiny`` for a model of another size.
    """
    if init == "tiny" and model.size != "tiny":
        raise UsageError(
            f"model.init tiny goes with model.size tiny only, got {model.size}; "
            f"give the path of its checkpoint, or random"
        )
    path = SHIPPED if init == "tiny" else Path(init).expanduser()
    report = load_checkpoint(model, path, head_init)
    model.pretrained = "self" if init == "tiny" else "file"
    model.weights_sha256 = sha256_of(path)
    print(f"initial weights: {path} ({report})")
