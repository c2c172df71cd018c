"""Trained backbones and classifiers from their files, without the data that they were trained on."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shared.checkpoints import load_content, require_same_tensors
from shared.errors import UsageError
from shared.runs import folder_of_checkpoint
from usssl.backbones import Backbone, build_backbone
from usssl.classifier import PlaneClassifier
from usssl.initialise import RECORD, load_backbone, load_weights
from usssl.runs import newest_checkpoint, require_kind


class TrainedClassifier(NamedTuple):
    """A classifier in evaluation mode, and what its checkpoint says about it."""

    network: PlaneClassifier
    record: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the logits."""
        return tuple(self.record["classes"])


def weights_file(weights: str, root: str) -> Path:
    """The file that ``--weights`` names; ``last`` is the newest pretraining.

    Raises:
        UsageError: There is none, or no such file.
    """
    if weights != "last":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UsageError(f"--weights must be an existing file or last, got {weights}")
        return path
    found = newest_checkpoint(Path(root), "pretrain")
    if found is None:
        raise UsageError(f"--weights last needs a run of usssl pretrain, found none in {Path(root) / 'usssl'}")
    return found


def backbone_of(path: Path) -> Backbone:
    """The backbone in a file, in evaluation mode."""
    backbone = build_backbone(load_backbone(path, "--weights")[0])
    load_weights(backbone, path, "--weights")
    return backbone.eval()


def trained_size(path: Path, given: int | None) -> int:
    """The image size that is asked for, else the one that the run of a checkpoint was trained at.

    Raises:
        UsageError: Neither is known.
    """
    if given is not None:
        return given
    folder = folder_of_checkpoint(path)
    if folder is None or not (folder / "results.json").is_file():
        raise UsageError(f"--image_size must be given where the weights are not of a finished run, got none for {path}")
    return int(json.loads((folder / "results.json").read_text(encoding="utf-8"))["data"]["image_size"])


def classifier_of(checkpoint: Path) -> TrainedClassifier:
    """The classifier in a checkpoint of ``usssl finetune``.

    Raises:
        UsageError: It is another file, or damaged.
    """
    require_kind(checkpoint, "finetune")
    content = load_content(checkpoint, "--ckpt_path")
    record = content[RECORD]
    with torch.random.fork_rng(devices=[]):
        network = PlaneClassifier(build_backbone(record["backbone"]), len(record["classes"]), **record["head"])
    prefix = "network."
    tensors = {name.removeprefix(prefix): t for name, t in content["state_dict"].items() if name.startswith(prefix)}
    require_same_tensors(tensors, network.state_dict(), what="--ckpt_path")
    network.load_state_dict(tensors)
    return TrainedClassifier(network.eval(), record)
