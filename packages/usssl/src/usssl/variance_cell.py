"""One run of ``usssl study variance``: a pretraining on chosen frames, and a classifier from its weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

from shared.errors import UsageError
from usssl.backbones import Backbone, build_backbone
from usssl.feature_spread import feature_variance, mean_cosine_distance
from usssl.finetuning import RANDOM
from usssl.frame_index import Sampling, frame_index
from usssl.initialise import initialise, load_backbone
from usssl.labelled import PlaneDataModule
from usssl.pretraining import Pretraining
from usssl.runs import kept_checkpoint
from usssl.training import build_classifier, build_pretraining, parsed_pretraining
from usssl.unlabelled import UltrasoundVideoDataModule

LOOKED_AT = 500
"""So many frames, evenly taken, tell how much all differ."""


def sampling_words(spec: dict[str, Any]) -> list[str]:
    """Options of ``pretrain`` that choose the frames of a cell."""
    if spec["axis"] == "size":
        return ["--data.sampling.frame_skip", f"{spec['level']:g}"]
    total = spec["frames"]
    if total is None:
        least = Sampling(share=spec["least_share"], share_of=spec["of"], frame_skip=1)
        data = UltrasoundVideoDataModule(**parsed_pretraining(base_words(spec)).part("data"))
        total = len(frame_index(data.clips, least, data.seed))
    share = ["--data.sampling.share", f"{spec['level']:g}", "--data.sampling.share_of", spec["of"]]
    return [*share, "--data.sampling.total", str(total)]


def base_words(spec: dict[str, Any]) -> list[str]:
    """Options of ``pretrain`` that all cells of a seed have in common."""
    seed = str(spec["seed"])
    return [
        *("--config", spec["config"], "--seed_everything", seed, "--data.seed", seed),
        *("--data.epoch_frames", str(spec["epoch_frames"])),
        *spec["pretrain"],
    ]


def fixed_network(weights: str) -> Backbone:
    """The network in whose features frames are compared."""
    kind = RANDOM if weights in ("random", "imagenet") else load_backbone(Path(weights), "network")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_backbone(kind)
    initialise(backbone, weights, "network")
    return backbone.eval()


@torch.no_grad()
def spread(data: UltrasoundVideoDataModule, network: Backbone) -> tuple[float, float]:
    """Feature variance and mean cosine distance of the chosen frames."""
    frames: Any = data.predict_dataloader().dataset
    rows = np.unique(np.linspace(0, len(frames) - 1, min(LOOKED_AT, len(frames))).astype(int)).tolist()
    parts = [
        network.features(torch.stack([frames[row] for row in rows[start : start + 64]]))
        for start in range(0, len(rows), 64)
    ]
    features = torch.cat(parts)
    if len(features) < 2:
        raise UsageError("a run of the study needs at least 2 frames, got 1")
    return feature_variance(features), mean_cosine_distance(features)


def pretraining_words(spec: dict[str, Any]) -> list[str]:
    """The command line of a cell's pretraining."""
    return ["pretrain", *base_words(spec), *sampling_words(spec), *written_to(spec, "pretrain")]


def classifier_words(spec: dict[str, Any], init: str) -> list[str]:
    """The command line of a cell's classifier, which starts from the weights ``init``."""
    seed = str(spec["seed"])
    labels = ["--seed_everything", seed, "--data.seed", seed, "--data.fraction_seed", seed]
    start = ["finetune", "--config", spec["finetune_config"], *labels, "--model.init", init]
    return [*start, *spec["finetune"], "--checkpoint.save_top_k", "0", *written_to(spec, "finetune")]


def written_to(spec: dict[str, Any], verb: str) -> list[str]:
    """Options that give a run of a cell its own folder and no progress bar."""
    name = f"{spec['axis']}-{spec['level']:g}-{spec['seed']}-{verb}"
    root = str(Path(spec["out"]) / "cells")
    return ["--run.root", root, "--trainer.enable_progress_bar", "false", "--run.name", name]


def check(words: Sequence[str]) -> None:
    """Read the options of one cell's two runs, choose its frames and run nothing.

    Raises:
        UsageError: An option is wrong, or there are too few frames.
    """
    spec = json.loads(words[0])
    pretraining = build_pretraining(pretraining_words(spec), parse_only=True)
    Pretraining(**pretraining.part("model"))
    UltrasoundVideoDataModule(**pretraining.part("data")).setup("fit")
    PlaneDataModule(**build_classifier(classifier_words(spec, "random"), parse_only=True).part("data"))


def train(words: Sequence[str]) -> dict[str, str]:
    """One cell in a worker: what was trained on, and the test scores. Its weights are not kept."""
    spec = json.loads(words[0])
    first = build_pretraining(pretraining_words(spec))
    assert first.folder is not None
    weights = kept_checkpoint(first.folder)
    assert weights is not None
    second = build_classifier(classifier_words(spec, str(weights)))
    scores, (low, high) = second.trainer.callback_metrics, second.model.intervals["macro_f1"]
    variance, distance = spread(first.datamodule, fixed_network(spec["network"]))
    for folder in (first.folder, second.folder):
        if folder is not None:
            rmtree(folder / "checkpoints", ignore_errors=True)
    return {
        **{counted: str(number) for counted, number in first.datamodule.frames_counted().items()},
        "steps": str(first.trainer.global_step),
        "feature_variance": f"{variance:.6g}",
        "cosine_distance": f"{distance:.6g}",
        "network": spec["network"] if spec["network"] in ("random", "imagenet") else Path(spec["network"]).name,
        **{score: f"{float(scores[f'test/{score}']):.6f}" for score in ("macro_f1", "balanced_accuracy", "accuracy")},
        "macro_f1_low": f"{low:.6f}",
        "macro_f1_high": f"{high:.6f}",
        "mode": "linear" if second.model.freezes else "full",
        "images": str(len(second.datamodule.selected)),
        "test_images": str(len(second.datamodule.labels("test"))),
        "method": type(first.model.method).__name__,
        "pretraining_data": first.datamodule.data_name,
        "data": second.datamodule.data_name,
        "provenance": second.datamodule.provenance,
    }
