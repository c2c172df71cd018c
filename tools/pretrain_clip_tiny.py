"""Pretrain ``clip_tiny``, the CLIP that comes with finelip: generated scenes with short captions, at 77 tokens.

    python tools/pretrain_clip_tiny.py --work DIR [--steps 400] [--minutes 40] [--seed 0]

Every step draws new scenes of one to seven objects from ``(seed, step)`` alone, some of them and towards the end nearly
all with a twin that differs in one attribute of one object or has one exchanged between two, and for each picture a
caption of at most 77 tokens that names one or two of its objects: captions that CLIP learns from are short and leave
things out. Pairs of shape and colour that are held back for validation and test are not drawn. The loss is CLIP's,
cross-entropy among all pictures and all captions of the batch by the cosine of the global vectors, and beside it that
of linear readers, which are thrown away afterwards: from the patch tokens of each place, from the picture's global
vector and from the text's they shall tell shape, colour, size and fill of the objects.

The state of training is written to ``DIR/training.pt`` and taken up again from there, bit for bit; the log to
``DIR/log.csv``; the weights, in half precision under OpenAI's names, to ``--out``.
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from finelip.clip_tiny import SHIPPED, export_tiny
from finelip.finelip import FineLIP
from finelip.late_detail.captions import generator_vocabulary, short_caption
from finelip.late_detail.rendering import render
from finelip.late_detail.scenes import (
    ALL_LOOKS,
    CELLS,
    COLOURS,
    FILLS,
    SHAPES,
    SIZES,
    TRAINING_LOOKS,
    Scene,
    altered,
    draw_scene,
)
from finelip.losses.info_nce import info_nce
from finelip.tokenizer import LongTokenizer, cut_to_longest
from finelip.towers import CLIP_TINY
from shared.federated.seeds import derived_seed

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
"""Of the pictures that OpenAI trained on, as everywhere in CLIP."""

SIZE = CLIP_TINY["vision_cfg"]["image_size"]
LARGEST_SCALE = math.log(100)
CHUNK = 32
"""Texts that are encoded together, cut to the longest of them."""

MOST_OBJECTS, MOST_NAMED = 7, 2
ATTRIBUTES = (len(SHAPES), len(COLOURS), len(SIZES), len(FILLS))
NO_OBJECT = -1


class Batch(NamedTuple):
    """Pictures and captions.

    Attributes:
        images: ``(B, 3, S, S)`` normalised.
        ids: ``(B, 77)`` of the small vocabulary.
        lengths: ``(B,)`` used slots.
        shown: ``(B, 9, 4)`` shape, colour, size and fill of the object in each place of the picture, -1 for none.
        told: The same of those objects that the caption names.
    """

    images: Tensor
    ids: Tensor
    lengths: Tensor
    shown: Tensor
    told: Tensor


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


def attributes(scenes: list[Scene], named: list[list[int]]) -> Tensor:
    """``(B, 9, 4)`` attributes of the named objects by place."""
    table = np.full((len(scenes), CELLS, len(ATTRIBUTES)), NO_OBJECT)
    for row, (scene, indices) in enumerate(zip(scenes, named, strict=True)):
        for thing in (scene.objects[i] for i in indices):
            table[row, thing.cell] = thing[: len(ATTRIBUTES)]
    return torch.from_numpy(table)


def batch_of(rng: np.random.Generator, scenes: list[Scene], named: list[list[int]], vocabulary: Vocabulary) -> Batch:
    """Scenes as pictures, with captions that name some of their objects."""
    texts = [short_caption(rng, scene, indices) for scene, indices in zip(scenes, named, strict=True)]
    shown = attributes(scenes, [list(range(len(scene.objects))) for scene in scenes])
    return Batch(prepared(scenes), *vocabulary(texts), shown, attributes(scenes, named))


def draw_named(rng: np.random.Generator, count: int) -> list[int]:
    """Which of so many objects a caption names: one or two."""
    named = int(rng.integers(1, min(count, MOST_NAMED) + 1))
    return sorted(rng.permutation(count)[:named].tolist())


def draw_batch(seed: int, step: int, size: int, progress: float, vocabulary: Vocabulary) -> Batch:
    """A batch of training; depends on the arguments alone. ``progress`` is the share of the training that is over."""
    rng = np.random.default_rng(derived_seed(seed, "training", step))
    scenes: list[Scene] = []
    while len(scenes) < size:
        scenes.append(draw_scene(rng, int(rng.integers(1, MOST_OBJECTS + 1))))
        if rng.random() < 0.2 + 0.7 * progress:
            scenes.append(altered(rng, scenes[-1]))
    scenes = scenes[:size]
    return batch_of(rng, scenes, [draw_named(rng, len(scene.objects)) for scene in scenes], vocabulary)


class Readers(nn.Module):
    """Linear readers of the objects' attributes, for training alone.

    Args:
        dim: Width of the joint space.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.places = nn.Linear(dim, CELLS * sum(ATTRIBUTES))  # of a global vector, for all places
        self.patches = nn.Linear(dim, sum(ATTRIBUTES))  # of the mean patch of one place

    def forward(self, images: Tensor, texts: Tensor, batch: Batch) -> Tensor:
        """Sum of the cross-entropies of all attributes from patches, pictures and texts.

        Args:
            images: ``(B, 1 + P, D)`` projected tokens.
            texts: ``(B, D)`` projected end tokens.
            batch: Where they come from.
        """
        side = SIZE // CLIP_TINY["vision_cfg"]["patch_size"] // 3  # patches of a place, in a row
        patches = images[:, 1:].unflatten(1, (3, side, 3, side)).mean((2, 4)).flatten(1, 2)
        return (
            cross_entropies(self.patches(patches), batch.shown)
            + cross_entropies(self.places(images[:, 0]).unflatten(1, (CELLS, -1)), batch.shown)
            + cross_entropies(self.places(texts).unflatten(1, (CELLS, -1)), batch.told)
        )


def cross_entropies(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum over the attributes of their mean cross-entropies; ``(B, 9, 30)`` logits, ``(B, 9, 4)`` classes."""
    parts = zip(logits.split(ATTRIBUTES, -1), wanted.unbind(-1), strict=True)
    terms = [F.cross_entropy(part.flatten(0, 1), target.flatten(), ignore_index=NO_OBJECT) for part, target in parts]
    return torch.stack(terms).sum()


def encode(model: FineLIP, batch: Batch) -> tuple[Tensor, Tensor]:
    """Projected tokens of the pictures ``(B, 1 + P, D)`` and end tokens of the texts ``(B, D)``, in float32.

    In bfloat16, and with the plain attention, whose backward pass in bfloat16 is much faster on a CPU than the fused.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        images = model.image_tokens(batch.images)
        order = batch.lengths.argsort()
        ends = []
        for rows in order.split(CHUNK):
            tokens = model.text_tokens(cut_to_longest(batch.ids[rows], batch.lengths[rows]))
            ends.append(tokens[torch.arange(len(rows)), batch.lengths[rows] - 1])
    return images.float(), torch.cat(ends)[order.argsort()].float()


def held_out(seed: int, pairs: int, vocabulary: Vocabulary) -> dict[str, Batch]:
    """Scenes of one and two objects, all named, at even places, their twins after them; of trained, of all looks."""
    sets = {}
    for name, looks in (("trained", TRAINING_LOOKS), ("all", ALL_LOOKS)):
        rng = np.random.default_rng(derived_seed(seed, f"held out {name}"))
        scenes: list[Scene] = []
        for i in range(pairs):
            scene = draw_scene(rng, 1 + i % MOST_NAMED, looks)
            scenes += [scene, altered(rng, scene, looks)]
        sets[name] = batch_of(rng, scenes, [list(range(len(scene.objects))) for scene in scenes], vocabulary)
    return sets


@torch.no_grad()
def evaluate(model: FineLIP, sets: dict[str, Batch]) -> dict[str, float]:
    """R@1 both ways among the scenes without their twins, and how often a caption prefers its picture to the twin."""
    model.eval()
    scores: dict[str, float] = {}
    for name, batch in sets.items():
        images, texts = encode(model, batch)
        images, texts = F.normalize(images[:, 0], dim=-1), F.normalize(texts, dim=-1)
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
    readers = Readers(model.dim)
    trained = [p for p in (*model.parameters(), *readers.parameters()) if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    plan = {
        "seed": options.seed,
        "steps": options.steps,
        "batch": options.batch,
        "lr": options.lr,
        "readers": options.readers,
    }
    step, spent, state = 0, 0.0, work / "training.pt"
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["plan"] != plan:
            raise SystemExit(f"{state} belongs to a run with {saved['plan']}, not {plan}")
        model.load_state_dict(saved["model"])
        readers.load_state_dict(saved["reader"])
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
                "reader": readers.state_dict(),
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
    bar = tqdm(initial=step, total=options.steps, mininterval=10)
    while step < options.steps:
        batch = draw_batch(options.seed, step, options.batch, step / options.steps, vocabulary)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps, options.lr)
        images, texts = encode(model, batch)
        similar = F.normalize(images[:, 0], dim=-1) @ F.normalize(texts, dim=-1).T
        contrast = info_nce(similar, similar, model.logit_scale)
        loss = contrast + options.readers * readers(images, texts, batch)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of step {step} is {loss.item()}; the state before it is in {state}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        losses.append(contrast.item())
        step += 1
        bar.update()
        late = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
        if late or step % options.every == 0 or step == options.steps:
            scores = pause()
        if late:
            break
    bar.close()
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
    parser.add_argument("--steps", type=int, default=400, help="steps of the whole run, which shape its schedule")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next call goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--every", type=int, default=50, help="steps between evaluations and saved states")
    parser.add_argument("--held-out", type=int, default=256, help="held-out scenes of each kind")
    parser.add_argument("--readers", type=float, default=0.3, help="weight of the readers' loss")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options)


if __name__ == "__main__":
    main()
