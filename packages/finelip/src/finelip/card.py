"""The model card beside every file that is passed on."""

from collections.abc import Sequence
from pathlib import Path

from finelip.finelip import FineLIP
from shared.atomic import write_text
from shared.checkpoints import sha256_of
from shared.versions import versions


def write_card(path: Path, model: FineLIP, told: str, source_sha256: str, use: str, more: Sequence[str] = ()) -> Path:
    """Write ``NAME.md`` beside a file or folder of weights; returns its path.

    Args:
        path: The file, or a folder whose weight files are listed.
        model: What was written.
        told: What it is, in one line.
        source_sha256: Of the file that it was made from.
        use: How to use it.
        more: Further lines, such as scores.
    """
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in (".safetensors", ".onnx"))
    refined = {
        side: "not refined" if net is None else f"{net.k} refined tokens"
        for side, net in (("image", model.cross_net.aggr_net), ("text", model.cross_net.cap_aggr_net))
    }
    activation = "QuickGELU" if model.quick_gelu else "GELU"
    lines = [
        f"# {path.name}",
        "",
        f"- content: {told}",
        *(f"- SHA-256{'' if file == path else f' of {file.relative_to(path)}'}: {sha256_of(file)}" for file in files),
        f"- made from weights with SHA-256: {source_sha256}",
        f"- images: {model.image_size} pixels, {model.patches} patches, {refined['image']}",
        f"- texts: {model.context_length} tokens of CLIP's vocabulary, {refined['text']}",
        f"- joint space: {model.dim} wide; activation {activation}",
        f"- use: {use}",
        *more,
        "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions('finelip').items())}",
    ]
    card = path.with_name(path.name + ".md")
    write_text(card, "\n".join(lines) + "\n")
    return card
