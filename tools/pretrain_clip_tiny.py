"""Pretrain ``clip_tiny``, the CLIP that comes with finelip: generated scenes with short captions, at 77 tokens.

    python tools/pretrain_clip_tiny.py --work DIR [--steps 2000] [--minutes 40] [--seed 0]

Every step draws new scenes from ``(seed, step)`` alone, each with a twin that differs in one attribute of one object
or has one exchanged between two, and a caption for each picture that names some or all of its objects. The loss is
CLIP's: cross-entropy among all pictures and all captions of the batch, by the cosine of the global vectors. Pairs of
shape and colour that are held back for validation and test are not drawn. Scenes have one object at first and more
and more as training goes on. The state of training is written to ``DIR/training.pt`` and taken up again from there,
bit for bit; the log to ``DIR/log.csv``; the weights, in half precision under OpenAI's names, to ``--out``.
"""

import argparse
import copy
import csv
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from finelip.clip_tiny import SHIPPED, export_tiny
from finelip.finelip import FineLIP
from finelip.late_detail.captions import generator_vocabulary, short_caption
from finelip.late_detail.rendering import render
from finelip.late_detail.scenes import ALL_LOOKS, TRAINING_LOOKS, Scene, altered, draw_scene
from finelip.losses.info_nce import info_nce
from finelip.tokenizer import LongTokenizer, cut_to_longest
from finelip.towers import CLIP_TINY
from shared.federated.seeds import derived_seed

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
"""Of the pictures that OpenAI trained on, as everywhere in CLIP."""

SIZE = CLIP_TINY["vision_cfg"]["image_size"]
LARGEST_SCALE = math.log(100)
CHUNK = 128
"""Texts that are encoded together, cut to the longest of them."""

MOST_OBJECTS = 7


class Batch(NamedTuple):
    """Pictures ``(B, 3, S, S)`` normalised, ids ``(B, 77)`` of the small vocabulary, lengths ``(B,)``."""

    images: Tensor
    ids: Tensor
    lengths: Tensor


class Vocabulary:
    """The ids that the generators use, numbered through."""

    def __init__(self) -> None:
        self.kept = generator_vocabulary()
        self.number = torch.zeros(CLIP_TINY["text_cfg"]["vocab_size"], dtype=torch.long)
        self.number[self.kept] = torch.arange(len(self.kept))
        self.tokenizer = LongTokenizer(CLIP_TINY["text_cfg"]["context_length"])

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Numbers and lengths."""
        ids, lengths, truncated = self.tokenizer(texts)
        assert not truncated.any()
        return self.number[ids], lengths


def prepared(scenes: list[Scene]) -> Tensor:
    """The pictures of scenes as the network wants them."""
    pixels = torch.from_numpy(np.stack([render(scene, SIZE) for scene in scenes]))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def most_objects(progress: float) -> int:
    """Objects that a scene may have after this share of the training: one in its first 8 %, seven from 60 % on.

    Example:
        >>> [most_objects(share) for share in (0, 0.1, 0.3, 0.7)]
        [1, 2, 4, 7]
    """
    return 1 if progress < 0.08 else min(MOST_OBJECTS, 2 + int((progress - 0.08) / 0.1))


def draw_batch(seed: int, step: int, size: int, progress: float, vocabulary: Vocabulary) -> Batch:
    """A batch of training; depends on the arguments alone."""
    rng = np.random.default_rng(derived_seed(seed, "training", step))
    most = most_objects(progress)
    scenes: list[Scene] = []
    texts: list[str] = []
    while len(scenes) < size:
        count = int(rng.integers(1, most + 1))
        scene = draw_scene(rng, count)
        for each in (scene, altered(rng, scene)):
            mentioned = count if count < 3 or rng.random() < 0.5 else int(rng.integers(2, count + 1))
            scenes.append(each)
            texts.append(short_caption(rng, each, mentioned))
    return Batch(prepared(scenes[:size]), *vocabulary(texts[:size]))


def encode(model: FineLIP, batch: Batch) -> tuple[Tensor, Tensor]:
    """Normalised global vectors of pictures and texts."""
    images = model.image_tokens(batch.images)[:, 0]
    order = batch.lengths.argsort()
    ends = []
    for rows in order.split(CHUNK):
        tokens = model.text_tokens(cut_to_longest(batch.ids[rows], batch.lengths[rows]))
        ends.append(tokens[torch.arange(len(rows)), batch.lengths[rows] - 1])
    texts = torch.cat(ends)[order.argsort()]
    return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


class HeldOut(NamedTuple):
    """Pairs that are not trained on, with all objects named: scenes at even places, their twins after them."""

    batch: Batch
    name: str


def held_out(seed: int, pairs: int, vocabulary: Vocabulary) -> list[HeldOut]:
    """Sets of ``pairs`` scenes of 1 to 4 objects and as many twins, with trained and with all looks."""
    sets = []
    for name, looks in (("trained", TRAINING_LOOKS), ("all", ALL_LOOKS)):
        scenes, texts = [], []
        for i in range(pairs):
            rng = np.random.default_rng(derived_seed(seed, f"held out {name}", i))
            scene = draw_scene(rng, 1 + i % 4, looks)
            for each in (scene, altered(rng, scene, looks)):
                scenes.append(each)
                texts.append(short_caption(rng, each, len(each.objects)))
        sets.append(HeldOut(Batch(prepared(scenes), *vocabulary(texts)), name))
    return sets


@torch.no_grad()
def evaluate(model: FineLIP, sets: list[HeldOut]) -> dict[str, float]:
    """R@1 both ways among the scenes without their twins, and how often a caption prefers its picture to the twin."""
    model.eval()
    scores: dict[str, float] = {}
    for batch, name in sets:
        images, texts = encode(model, batch)
        similar = images[::2] @ texts[::2].T
        there = torch.arange(len(similar))
        own, other = (images * texts).sum(1), (images[torch.arange(len(images)) ^ 1] * texts).sum(1)
        scores |= {
            f"{name}_t2i_r1": (similar.argmax(0) == there).float().mean().item(),
            f"{name}_i2t_r1": (similar.argmax(1) == there).float().mean().item(),
            f"{name}_twin": (own > other).float().mean().item(),
        }
    model.train()
    return scores


def new_model(seed: int, words: int) -> FineLIP:
    """The model with random weights and a small table of tokens; all its 77 positions are trained."""
    config = copy.deepcopy(CLIP_TINY)
    config["text_cfg"]["vocab_size"] = words
    torch.manual_seed(derived_seed(seed, "weights") % 2**32)
    model = FineLIP(config, stretch_by="none", keep=0, refinement="none")
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))
    return model


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate at a step: a linear start over 1/20 of all steps, then a half cosine to 1/100."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train until the steps or the minutes are used up; returns the last scores."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary()
    model = new_model(options.seed, len(vocabulary.kept))
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    plan = {"seed": options.seed, "steps": options.steps, "batch": options.batch, "lr": options.lr}
    step, spent, state = 0, 0.0, work / "training.pt"
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["plan"] != plan:
            raise SystemExit(f"{state} belongs to a run with {saved['plan']}, not {plan}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["minutes"]
        print(f"goes on after step {step}")
    sets = held_out(options.seed, options.held_out, vocabulary)
    began = time.monotonic()
    losses: list[float] = []
    scores: dict[str, float] = {}
    log = work / "log.csv"

    def pause() -> dict[str, float]:
        scores = evaluate(model, sets)
        minutes = spent + (time.monotonic() - began) / 60
        _write(
            state,
            {
                "plan": plan,
                "step": step,
                "minutes": minutes,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            },
        )
        row = {"step": step, "minutes": minutes, "loss": sum(losses) / max(1, len(losses)), **scores}
        new = not log.is_file()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({name: round(value, 4) for name, value in row.items()})
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
        losses.clear()
        return scores

    model.train()
    for step in tqdm(range(step, options.steps), initial=step, total=options.steps, mininterval=10):
        batch = draw_batch(options.seed, step, options.batch, step / options.steps, vocabulary)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps, options.lr)
        images, texts = encode(model, batch)
        similar = images @ texts.T
        loss = info_nce(similar, similar, model.logit_scale)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of step {step} is {loss.item()}; the state before it is in {state}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        losses.append(loss.item())
        step += 1
        late = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
        if late or step % options.every == 0 or step == options.steps:
            scores = pause()
        if late:
            break
    scores = scores or evaluate(model, sets)
    about = {"step": str(step)} | {name: str(value) for name, value in plan.items()}
    size = export_tiny(model, vocabulary.kept, options.out, about | {n: f"{v:.4f}" for n, v in scores.items()})
    print(f"{options.out}: {size} bytes after step {step} of {options.steps}")
    return scores


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state and the log")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the weights go")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the whole run, which shape its schedule")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next call goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and saved states")
    parser.add_argument("--held-out", type=int, default=256, help="held-out scenes of each kind")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
