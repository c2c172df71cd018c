"""Pretrain ``sam_tiny``, the SAM that comes with fedsam: promptable segmentation of generated shapes and textures.

    python tools/pretrain_sam_tiny.py --work DIR [--steps 20000] [--minutes 60] [--seed 0]

Each sample is drawn from ``(seed, index)`` alone: ellipses, polygons, blobs, tubes and layered tissues with textures,
then blur, a bias field, noise and gamma; no real picture is used. Prompts of three kinds (one point, several points,
a box) ask for one of the masks. The network is the published design in size ``tiny`` with its own four-fold decoder
and its prompt encoder; the loss is the published one, 20 focal + Dice + the error of the predicted overlap, for one
point on the best of three masks. The state of training is written to ``DIR/training.pt`` and taken up again from
there, bit for bit; the log to ``DIR/log.csv``; the weights, in half precision under SAM's names, to ``--out``.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fedsam.sam import Sam
from fedsam.sam_checkpoint import SHIPPED
from shared.checkpoints import save_tensors
from shared.federated.seeds import derived_seed

SIDE = 128
POINTS = 4
HELD_OUT = 256
KINDS = ("point", "points", "box")
LIMIT_BYTES = 3_000_000

Mask = np.ndarray
Shape = Callable[[np.random.Generator, np.ndarray, np.ndarray], list[Mask]]

# ---------------------------------------------------------------------- shapes, each a list of masks on the grid


def _smooth(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """A smooth random field of mean 0 and standard deviation 1."""
    field = gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _polar(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radius and angle about a random centre, in a frame that is turned and squeezed."""
    cy, cx = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
    turn, squeeze = rng.uniform(0, math.pi), rng.uniform(0.45, 1)
    u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
    v = ((y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)) / squeeze
    return np.hypot(u, v), np.arctan2(v, u)


def ellipse(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> list[Mask]:
    """One ellipse."""
    return [_polar(rng, y, x)[0] < rng.uniform(0.05, 0.35) * SIDE]


def polygon(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> list[Mask]:
    """A star-shaped polygon: its radius is linear between random corners."""
    radius, angle = _polar(rng, y, x)
    corners = rng.integers(3, 9)
    angles = np.sort(rng.uniform(-math.pi, math.pi, corners))
    radii = rng.uniform(0.08, 0.35, corners) * SIDE
    return [radius < np.interp(angle, angles, radii, period=2 * math.pi)]


def blob(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> list[Mask]:
    """An ellipse whose border is moved by a smooth field."""
    radius, _ = _polar(rng, y, x)
    size = rng.uniform(0.1, 0.35) * SIDE
    return [radius + 0.35 * size * _smooth(rng, rng.uniform(4, 12)) < size]


def tube(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> list[Mask]:
    """A vessel: all pixels near a random walk that turns slowly."""
    position, heading = rng.uniform(0.1, 0.9, 2) * SIDE, rng.uniform(0, 2 * math.pi)
    path = np.ones((SIDE, SIDE), bool)
    for turn in rng.normal(0, 0.12, int(rng.integers(40, 140))):
        heading += turn
        position = position + np.array([math.sin(heading), math.cos(heading)])
        row, column = np.clip(position.astype(int), 0, SIDE - 1)
        path[row, column] = False
    return [distance_transform_edt(path) < rng.uniform(2, 7)]


def layers(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> list[Mask]:
    """Nested tissues: level sets of one warped radius. A point inside may mean any of the layers that hold it."""
    radius, _ = _polar(rng, y, x)
    warped = radius + 5 * _smooth(rng, rng.uniform(6, 16))
    borders = np.cumsum(rng.uniform(0.06, 0.16, int(rng.integers(2, 4)))) * SIDE
    return [warped < border for border in borders[::-1]]


SHAPES: tuple[Shape, ...] = (ellipse, polygon, blob, tube, layers)


def draw_sample(seed: int, purpose: str, index: int) -> dict[str, Tensor]:
    """One image with a mask and its prompts; depends on the arguments alone.

    Returns:
        ``image`` (3, S, S) in [0, 1], ``mask`` (S, S), ``points`` (POINTS, 2) x first, ``labels`` (POINTS,) of them,
        ``box`` (4,).
    """
    rng = np.random.default_rng(derived_seed(seed, purpose, index))
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    while True:
        image = rng.uniform(0, 1) + rng.uniform(0, 0.15) * _smooth(rng, rng.uniform(0.7, 10))
        masks: list[Mask] = []
        for _ in range(rng.integers(2, 7)):
            for mask in SHAPES[rng.integers(len(SHAPES))](rng, y, x):
                # What is painted later hides what was there before, but a layer does not hide what encloses it.
                texture = rng.uniform(0, 1) + rng.uniform(0, 0.15) * _smooth(rng, rng.uniform(0.7, 10))
                image = np.where(mask, texture, image)
                masks = [old if mask[old].sum() == mask.sum() else old & ~mask for old in masks] + [mask]
        masks = [mask for mask in masks if 0.004 < mask.mean() < 0.6]
        if masks:
            break
    image = gaussian_filter(image, rng.uniform(0, 1.2))
    bias = zoom(rng.uniform(0.75, 1.25, (3, 3)), SIDE / 3, order=3)
    image = image * bias + rng.uniform(0, 0.08) * rng.standard_normal(image.shape)
    image = (image - image.min()) / (np.ptp(image) + 1e-8)
    image = image ** math.exp(rng.uniform(-0.4, 0.4))
    mask = masks[rng.integers(len(masks))]
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    wanted = np.array([True, *(rng.random(POINTS - 1) < 0.6)])
    spots = [side[rng.integers(len(side))] for side in (inside if w else outside for w in wanted)]
    low, high = inside.min(0), inside.max(0)
    jitter = rng.normal(0, 0.05, (2, 2)) * (high - low)
    corners = np.clip(np.stack([low, high]) + jitter, 0, SIDE - 1)[:, ::-1]
    return {
        "image": torch.from_numpy(image).float().expand(3, -1, -1),
        "mask": torch.from_numpy(mask).float(),
        "points": torch.from_numpy(np.stack(spots)[:, ::-1].copy()).float(),
        "labels": torch.from_numpy(wanted).float(),
        "box": torch.from_numpy(corners.copy()).float().flatten(),
    }


class Samples(Dataset[dict[str, Tensor]]):
    """Samples ``start`` to ``stop`` of one purpose."""

    def __init__(self, seed: int, purpose: str, start: int, stop: int) -> None:
        self.seed, self.purpose, self.start, self.stop = seed, purpose, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        return draw_sample(self.seed, self.purpose, self.start + item)


# ---------------------------------------------------------------------- loss and scores


def overlaps(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of each mask (N, M, h, w) at threshold 0 with the target (N, h, w): (N, M)."""
    found, wanted = logits > 0, target[:, None] > 0.5
    return (found & wanted).sum((2, 3)) / (found | wanted).sum((2, 3)).clamp(min=1)


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """20 focal (gamma 2, alpha 1/4) + Dice of each mask: (N, M)."""
    wanted = target[:, None].expand_as(logits)
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = p * (1 - wanted) + (1 - p) * wanted
    focal = ((0.25 * wanted + 0.75 * (1 - wanted)) * missed.square() * cross_entropy).mean((2, 3))
    dice = 1 - (2 * (p * wanted).sum((2, 3)) + 1) / (p.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    return 20 * focal + dice


def prompts_of(batch: dict[str, Tensor], kind: str) -> dict[str, Any]:
    """Arguments of :meth:`Sam.decode` for one ``point``, several ``points`` or a ``box``."""
    if kind == "box":
        return {"boxes": batch["box"]}
    count = 1 if kind == "point" else POINTS
    return {"points": (batch["points"][:, :count], batch["labels"][:, :count])}


def training_loss(model: Sam, batch: dict[str, Tensor]) -> Tensor:
    """Mean loss of a batch over the three kinds of prompt, which share the embedding of the image.

    One point is ambiguous and trains the best of masks 1 to 3, all else mask 0.
    """
    embeddings = model.embed(batch["image"])
    losses = []
    for kind in KINDS:
        logits, predicted = model.decode(embeddings, **prompts_of(batch, kind))
        target = F.interpolate(batch["mask"][:, None], logits.shape[2:], mode="area")[:, 0]
        chosen = slice(1, 4) if kind == "point" else slice(0, 1)
        logits, predicted = logits[:, chosen], predicted[:, chosen]
        error = (predicted - overlaps(logits.detach(), target)).square().mean()
        losses.append(mask_losses(logits, target).amin(1).mean() + error)
    return torch.stack(losses).mean()


@torch.no_grad()
def evaluate(model: Sam, held_out: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean IoU on held-out samples by kind of prompt; for one point that of the mask which the model ranks first."""
    model.eval()
    scores: dict[str, list[float]] = {f"iou_{kind}": [] for kind in KINDS}
    for batch in held_out:
        embeddings = model.embed(batch["image"])
        for kind in KINDS:
            logits, predicted = model.decode(embeddings, **prompts_of(batch, kind))
            logits = F.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
            best = 1 + predicted[:, 1:].argmax(1) if kind == "point" else torch.zeros(len(logits), dtype=torch.long)
            scores[f"iou_{kind}"] += overlaps(logits, batch["mask"]).gather(1, best[:, None])[:, 0].tolist()
    model.train()
    return {name: sum(values) / len(values) for name, values in scores.items()}


# ---------------------------------------------------------------------- training


def new_model(seed: int) -> Sam:
    """The promptable model with random weights; positions start small in place of zero."""
    torch.manual_seed(derived_seed(seed, "weights") % 2**32)
    model = Sam("tiny", SIDE, 3, "full", upsampling=4)
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
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


def export(model: Sam, out: Path, about: dict[str, str]) -> int:
    """Write the weights in half precision and return the size of the file."""
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(out, tensors, about)
    size = out.stat().st_size
    if size > LIMIT_BYTES:
        raise SystemExit(f"{out} has {size} bytes, more than {LIMIT_BYTES}")
    return size


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train until the steps or the minutes are used up; returns the last scores."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model = new_model(options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.99), weight_decay=0.05)
    plan = {"seed": options.seed, "steps": options.steps, "batch": options.batch, "lr": options.lr}
    step, state = 0, work / "training.pt"
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["plan"] != plan:
            raise SystemExit(f"{state} belongs to a run with {saved['plan']}, not {plan}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        print(f"goes on after step {step}")
    held_out = list(DataLoader(Samples(options.seed, "held out", 0, options.held_out), options.batch))
    todo = Samples(options.seed, "training", step * options.batch, options.steps * options.batch)
    loader = DataLoader(todo, options.batch, num_workers=options.workers)
    began = time.monotonic()
    losses: list[float] = []
    scores: dict[str, float] = {}
    log = work / "log.csv"

    def pause() -> dict[str, float]:
        scores = evaluate(model, held_out)
        _write(state, {"plan": plan, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
        loss = sum(losses) / max(1, len(losses))
        row = {"step": step, "minutes": (time.monotonic() - began) / 60, "loss": loss, **scores}
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
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps, options.lr)
        loss = training_loss(model, batch)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss of step {step} is {loss.item()}; the state before it is in {state}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        late = options.minutes is not None and time.monotonic() - began > 60 * options.minutes
        if late or step % options.every == 0 or step == options.steps:
            scores = pause()
        if late:
            break
    scores = scores or evaluate(model, held_out)
    about = {"format": "sam", "image_size": str(SIDE), "step": str(step)} | {n: str(v) for n, v in plan.items()}
    size = export(model, options.out, about | {name: f"{value:.4f}" for name, value in scores.items()})
    print(f"{options.out}: {size} bytes after step {step} of {options.steps}")
    return scores


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training state and the log")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the weights go")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the whole run, which shape its schedule")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next call goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=8e-4, help="largest learning rate")
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations and saved states")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="held-out samples")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw samples")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
