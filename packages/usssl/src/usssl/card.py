"""The model card of an exported backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.checkpoints import load_content, sha256_of
from shared.model_card import ModelCard, described
from shared.run_facts import RunFacts, run_facts
from shared.runs import folder_of_checkpoint
from usssl.augmentation.normalisation import MEAN, STD
from usssl.backbones import RESNETS, TIMM, build_backbone
from usssl.initialise import RECORD


def card_of(path: Path, backbone: str, source: Path, seen: Mapping[str, Sequence[str]]) -> ModelCard:
    """The card of a file that ``usssl export`` wrote.

    Args:
        path: The file.
        backbone: Its name (:func:`~usssl.backbones.build_backbone`).
        source: The checkpoint or file of weights that it was made from.
        seen: Pseudonyms of patients in the file, by the name of their data.
    """
    facts = run_facts(folder_of_checkpoint(source), lambda name: True)
    size, people = facts.told.get("image_size"), sum(map(len, seen.values()))
    counts, images = facts.told.get("train", {}), facts.told.get("images", {})
    side = f"{size} x {size} as in training" if size else "S x S"
    limits = [
        "Features alone: no classifier, and no plane is named without one.",
        f"Scores and features are known on {facts.data} ({facts.provenance} data) alone." if facts.data else "",
        f"The file holds pseudonyms of patients ({people}), so that `usssl finetune` can refuse to test on them; "
        "whoever has a list of identifiers can try them. `usssl export --patients false` leaves them out."
        if people
        else "",
    ]
    return ModelCard(
        **described(path, "usssl"),  # type: ignore[arg-type]
        task="Image encoder for ultrasound frames: features of an image, or the start of a classifier.",
        loading=_loading(path, backbone),
        model={
            "architecture": f"{backbone} without its last layer",
            "parameters": f"{sum(p.numel() for p in build_backbone(backbone).published().parameters()):,}",
            **_origin(facts),
            "made from": f"{source.name}, SHA-256 `{sha256_of(source)}`",
        },
        inputs={
            "images": f"(B, 3, {side}) float32; grey frames repeated over the channels",
            "values": f"[0, 1], then minus {MEAN} and over {STD} by channel (ImageNet's)",
        },
        outputs={"features": f"(B, {build_backbone(backbone).width}) float32, no unit"},
        run=facts,
        training={
            "kind": _kind(source),
            "trained on": ", ".join(f"{n:,} {what}" for what, n in counts.items() if n),
            "images": ", ".join(f"{n:,} {part}" for part, n in images.items()),
        },
        limits=tuple(filter(None, limits)),
        medical=True,
    )


def _record(source: Path) -> dict[str, Any]:
    content = load_content(source, "--weights")
    return dict(content.get(RECORD) or {}) if isinstance(content, dict) else {}


def _kind(source: Path) -> str:
    record = _record(source)
    if "classes" in record:
        return f"as part of a classifier of {', '.join(record['classes'])}"
    return f"without labels, {record['method']}" if "method" in record else ""


def _origin(facts: RunFacts) -> dict[str, str]:
    told = str(facts.model.get("pretrained", ""))
    sha = facts.model.get("weights_sha256")
    words = {"none": "no: random weights", "self": "yes: by usssl", "file": "yes: weights of a file"}
    return {"pretrained before the run": words.get(told, told) + (f", SHA-256 `{sha}`" if sha else "")}


def _loading(path: Path, backbone: str) -> str:
    if backbone in RESNETS:
        return f"""
import torch
from safetensors.torch import load_file
from torchvision.models import {backbone}

model = {backbone}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("{path.name}"))
"""
    return f"""
import timm
from safetensors.torch import load_file

model = timm.create_model("{backbone.removeprefix(TIMM)}", num_classes=0)
model.load_state_dict(load_file("{path.name}"))
"""
