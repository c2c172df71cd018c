"""A CLIP with more text positions than it had, and one with as few as it had."""

from dataclasses import dataclass
from typing import Any

import torch

from finelip.checkpoints.read import ClipWeights, backbone_of, load_clip
from finelip.checkpoints.write import one_table
from finelip.finelip import FineLIP
from finelip.positions import Strategy, shrink, stretch
from finelip.towers import backbone_config
from shared.errors import UsageError


def config_of(
    weights: ClipWeights, backbone: str | None = None, option: str = "--weights"
) -> tuple[str, dict[str, Any]]:
    """Name and config of the backbone that weights belong to.

    Args:
        weights: What was read.
        backbone: Its name, where the user gives it; ``None``: what the file says, else what the shapes say.
        option: Name of the option that gave the weights, for the error message.
    """
    if backbone is not None:
        return backbone, backbone_config(backbone)
    if weights.about is not None:
        return "the backbone in the file", weights.about["backbone"]
    name = backbone_of(weights, option)
    return name, backbone_config(name)


def stretched_clip(
    weights: ClipWeights,
    config: dict[str, Any],
    by: Strategy = "kps",
    keep: int = 20,
    ratio: int = 4,
    option: str = "--weights",
) -> FineLIP:
    """A CLIP whose text positions are stretched; it has no aggregators.

    Raises:
        UsageError: The positions in the file do not come out at the new length, or it is no whole CLIP.
    """
    model = FineLIP(config, stretch_by=by, keep=keep, ratio=ratio, refinement="none")
    load_clip(model, weights, option)
    return model.eval()


@dataclass(frozen=True)
class Lost:
    """What a shorter model lacks.

    Attributes:
        rows: Positions that are left out.
        changed: How many of these are not what stretching the rest would give again.
        gap: By how much at most.
        aggregators: Tensors of token refinement that are left out.
    """

    rows: int
    changed: int
    gap: float
    aggregators: int

    def __str__(self) -> str:
        told = f"lost: {self.rows} positions"
        told += (
            f", of which {self.changed} were trained to something else than stretching gives again (by up to "
            f"{self.gap:.3g})"
            if self.changed
            else ", which stretching gives again bit for bit"
        )
        if self.aggregators:
            told += f"; {self.aggregators} tensors of token refinement"
        return told


def shrunk_clip(
    weights: ClipWeights, config: dict[str, Any], keep: int = 20, ratio: int = 4, option: str = "--weights"
) -> tuple[FineLIP, Lost]:
    """The CLIP of the original length whose positions ``kps`` stretches to those of the file, and what it lacks.

    Raises:
        UsageError: The file's positions are not so many.
    """
    long = FineLIP(config, keep=keep, ratio=ratio, refinement="none")
    state = weights.tensors
    if len(state.get("positional_embedding", ())) != long.context_length:
        raise UsageError(
            f"{option} must have the {long.context_length} positions of keep {keep} and ratio {ratio}, got "
            f"{len(state.get('positional_embedding', ()))}"
        )
    report = load_clip(long, weights, option)
    whole = one_table(long)
    table = whole["positional_embedding"]
    short = shrink(table, keep, ratio)
    gaps = (stretch(short, "kps", keep, ratio) - table).abs().amax(1)
    model = FineLIP(config, stretch_by="none", refinement="none")
    with torch.no_grad():
        target = model.state_dict()
        for name, tensor in (whole | {"positional_embedding": short, "positional_embedding_res": short}).items():
            target[name].copy_(tensor)
    lost = Lost(len(table) - len(short), int((gaps > 0).sum()), float(gaps.max()), len(report.unused))
    return model.eval(), lost
