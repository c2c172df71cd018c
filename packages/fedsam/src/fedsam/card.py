"""The model card of an exported segmentation model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsam.sam_checkpoint import SHIPPED
from fedsam.trained import Trained
from shared.checkpoints import load_tensors, sha256_of
from shared.model_card import ModelCard, described
from shared.run_facts import run_facts

MEASURED = ("dice", "hd95", "surface_dice", "volumes")
TASKS = {
    "merged": "Segmentation of 3D scans with a SAM adapted to them, LoRA folded into its weights.",
    "adapters": "What was trained alone of a SAM adapted to the segmentation of 3D scans. It needs the SAM checkpoint "
    "that it was trained on.",
    "sam": "A SAM adapted to the segmentation of 3D scans, under the names of the published SAM.",
}


def card_of(path: Path, what: str, trained: Trained, told: str, checkpoint: Path, init: str) -> ModelCard:
    """The card of a file that ``fedsam export`` wrote.

    Args:
        path: The file.
        what: ``merged``, ``adapters`` or ``sam``.
        trained: The model, from a run.
        told: What was written, in a phrase.
        checkpoint: Of the run, of which the file was made.
        init: ``model.init`` of the run.
    """
    network, reading = trained.segmenter.network, trained.reading
    facts = run_facts(trained.folder, lambda name: name.split("/")[1] in MEASURED)
    numbers = sum(tensor.numel() for tensor in load_tensors(path, "--out").values())
    start = {"none": "no: random weights", "self": "yes: the small SAM that comes with fedsam"}.get(
        network.pretrained, f"yes: weights of the file {Path(init).name}"
    )
    sha = network.weights_sha256
    normalisations = {
        site: f"{type(chosen).__name__} {asdict(chosen) or ''}".strip()
        for site, chosen in reading.normalisations.items()
    }
    kinds = set(normalisations.values())
    by_site = ", ".join(f"{kind} ({site})" for site, kind in normalisations.items())
    limits = [f"Known to work on no other data than {reading.data} ({reading.provenance} data), as far as scores say."]
    if trained.site:
        limits.append(f"The model of {trained.site} alone; scores of the run are over the models of all sites.")
    if what == "sam":
        limits.append(f"What the published SAM has no place for is not in the file: {told}.")
    return ModelCard(
        **described(path, "fedsam"),  # type: ignore[arg-type]
        task=TASKS[what],
        loading=_loading(path, what, sha, init),
        model={
            "content": told,
            "architecture": f"SAM {network.size}, variant {network.variant}, rank {network.plan.rank}",
            "parameters": f"{numbers:,} in the file, {network.trainable_numbers():,} were trained",
            "pretrained": start + (f", SHA-256 `{sha}`" if sha else ""),
            "made from": f"{checkpoint.name}, SHA-256 `{sha256_of(checkpoint)}`",
        },
        inputs={
            "scan": "(Z, H, W), one channel; windows of neighbouring slices are scaled to [0, 1] and resized to "
            f"{network.image_size} x {network.image_size} pixels",
            "values": f"normalised by {kinds.pop() if len(kinds) == 1 else by_site} of fedsam.intensity",
            "slices": f"axis {reading.slice_axis} of a NIfTI file",
        },
        outputs={
            "labels": "(Z, H, W) uint8 on the scan's own grid",
            "classes": ", ".join(f"{number} {name}" for number, name in enumerate(reading.class_names)),
        },
        run=facts,
        training={
            "regime": trained.regime + (f", the model of {trained.site}" if trained.site else ""),
            "sites": ", ".join(reading.sites),
            "volumes": _volumes(facts.told.get("volumes", {})),
        },
        limits=tuple(limits),
        medical=True,
    )


def _volumes(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _loading(path: Path, what: str, base_sha256: str | None, init: str) -> str:
    if what == "sam":
        reader = (
            ("from safetensors.torch import load_file", f'load_file("{path.name}")')
            if path.suffix == ".safetensors"
            else ("import torch", f'torch.load("{path.name}", weights_only=True)')
        )
        return f"{reader[0]}\n\nstate = {reader[1]}  # names and shapes of segment_anything's Sam"
    shipped = what == "merged" or base_sha256 == sha256_of(SHIPPED)
    base = "" if shipped else f', base="{Path(init).name}"'
    return f"""
from pathlib import Path

from fedsam.trained import from_file

trained = from_file(Path("{path.name}"){base})
trained.segmenter  # segments volumes; `fedsam predict --weights {path.name}` reads scans and writes masks
print(trained.reading.class_names)
"""
