"""A training step of FineLIP on ViT-B/16 with 248 text slots against open_clip's own with as many.

    python benchmarks/clip_step.py [--quick] [--out benchmarks/results/clip_step.json]

Forward, backward and AdamW on the same random pairs with random weights. Ours: both towers with every token projected,
refinement of both sides, late interaction, triplet loss. The peer: open_clip's CLIP with a text context of 248 and its
``ClipLoss``, so neither refinement nor late interaction. Once with captions that fill all slots, once with captions of
about 130 tokens, of which ours sees no more than the longest of the batch; and once without refinement and late
interaction, our contrastive baseline, which is the same products as the peer's. Steps alternate in one process and
their CPU time is compared; peak memory is growth over the resident size before the model is built.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from finelip.finelip import FineLIP
from finelip.losses.info_nce import GlobalInfoNCE
from finelip.losses.loss import EncodedBatch, Loss
from finelip.losses.triplet import TripletHinge
from finelip.tokenizer import EOS, cut_to_longest, true_lengths
from finelip.towers import backbone_config
from paired import as_dict, compare, machine, peak_growth, table, write
from text_lengths import captions

SLOTS = 248
LIMIT = 1.0
SAME_PRODUCTS_LIMIT = 1.1
BUDGET_S = 360.0  # of each case
Step = Callable[[], object]


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """A step on a fixed batch."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-6, weight_decay=1e-2)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def ours(backbone: str, images: Tensor, ids: Tensor) -> Step:
    """FineLIP's step."""
    return finelip_step(FineLIP(backbone), TripletHinge(), images, ids)


def baseline(backbone: str, images: Tensor, ids: Tensor) -> Step:
    """The step of the stretched model by the contrastive loss of global vectors."""
    return finelip_step(FineLIP(backbone, refinement="none"), GlobalInfoNCE(), images, ids)


def finelip_step(model: FineLIP, criterion: Loss, images: Tensor, ids: Tensor) -> Step:
    """A step as :class:`finelip.module.FineLIPModule` takes it."""

    def loss() -> Tensor:
        lengths = true_lengths(ids)
        texts = model.text_tokens(cut_to_longest(ids, lengths))
        batch = EncodedBatch(model.image_tokens(images), texts, lengths, torch.arange(len(ids)), None, None)
        return criterion(model, batch)

    return step_of(model, loss)


def peer(backbone: str, images: Tensor, ids: Tensor) -> Step:
    """open_clip's step."""
    config = backbone_config(backbone)
    model = open_clip.CLIP(
        config["embed_dim"],
        open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        open_clip.CLIPTextCfg(**config["text_cfg"] | {"context_length": SLOTS}),
        quick_gelu=config["quick_gelu"],
    )
    criterion = open_clip.ClipLoss()
    return step_of(model, lambda: criterion(*model(images, ids)))


def measure(backbone: str, batch: int, pairs: int) -> list[dict[str, Any]]:
    """Both lengths, and the baseline."""
    size = backbone_config(backbone)["vision_cfg"]["image_size"]
    images = torch.randn(batch, 3, size, size)
    full = captions(batch, SLOTS)
    full[:, 1:-1] = torch.randint(1, 49_000, (batch, SLOTS - 2))
    full[:, -1] = EOS
    results = []
    for name, ids, model, limit in (
        ("all 248 slots", full, ours, LIMIT),
        ("about 130 tokens", captions(batch, SLOTS), ours, LIMIT),
        ("all 248 slots, contrastive baseline", full, baseline, SAME_PRODUCTS_LIMIT),
    ):

        def two_steps(build: Callable[[str, Tensor, Tensor], Step], ids: Tensor = ids) -> None:
            step = build(backbone, images, ids)
            step()
            step()

        memory = [peak_growth(lambda build=build: two_steps(build)) for build in (model, peer)]  # type: ignore[misc]
        timed = compare(model(backbone, images, ids), peer(backbone, images, ids), pairs, budget_s=BUDGET_S)
        results.append(
            {"texts": name, "backbone": backbone, "batch": batch}
            | as_dict(timed)
            | {
                "time_ratio": round(1 / timed.speedup, 3),
                "limit": limit,
                "holds": 1 / timed.low <= limit,
                "ours_peak_mb": round(memory[0] / 1e6),
                "peer_peak_mb": round(memory[1] / 1e6),
            }
        )
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs of the small model")
    parser.add_argument("--pairs", type=int, default=21, help="pairs; fewer where a pair takes long")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    results = measure("clip_tiny", 8, 3) if options.quick else measure("ViT-B-16-quickgelu", 4, options.pairs)
    header = ["texts", "ours s", "open_clip s", "ratio", "95 %", "pairs", "limit", "ours MB", "open_clip MB"]
    rows = [
        [
            r["texts"],
            f"{r['ours_cpu_s']:.2f}",
            f"{r['peer_cpu_s']:.2f}",
            f"{r['time_ratio']:.3f}",
            f"{1 / r['high']:.3f} to {1 / r['low']:.3f}",
            str(r["pairs"]),
            f"{r['limit']:.2f}",
            str(r["ours_peak_mb"]),
            str(r["peer_peak_mb"]),
        ]
        for r in results
    ]
    print(table(header, rows))
    print(machine())
    if options.out:
        write(options.out, "a training step with 248 text slots against open_clip's", results)


if __name__ == "__main__":
    main()
