"""CPU time of making two views of a batch in torch, against the same recipe one PIL picture at a time.

    python benchmarks/two_views.py [--quick] [--out benchmarks/results/two_views.json]

64 grey frames of 256 x 256 pixels to two views of 224, one thread. Both draw from the same distributions and end in
batches of normalised float32 with three channels; what is timed begins with decoded bytes. The peer is the reference's
recipe: torchvision's transforms and Pillow's filters.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from paired import as_dict, compare, table, write
from usssl.augmentation import InfomaxViews, SimclrViews
from usssl.augmentation.recipes import PilViews

FRAMES, STORED, SIZE = 64, 256, 224
PROMISED = 3.0


def frames(count: int) -> np.ndarray:
    """Smooth noise as uint8, ``(count, 256, 256)``."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((count, STORED, STORED)), (0, 3, 3))
    return np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


def one_by_one(views: PilViews, pictures: np.ndarray) -> list[Tensor]:
    """Views of every picture in turn, stacked to batches as a loader does."""
    items = [views([Image.fromarray(picture).convert("RGB")]) for picture in pictures]
    return [torch.stack(view) for view in zip(*items, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="eight frames, three pairs: does it run?")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = frames(8 if options.quick else FRAMES)
    batch = torch.from_numpy(pictures)[:, None]
    seeds = list(range(len(pictures)))
    results = []
    for name, recipe in (("simclr", SimclrViews()), ("infomax", InfomaxViews())):
        ours, peer = recipe.batched(SIZE), recipe.pil(SIZE, "stretch")
        timed = compare(
            lambda views=ours: views([batch], seeds),  # type: ignore[misc]
            lambda views=peer: one_by_one(views, pictures),  # type: ignore[misc]
            3 if options.quick else 21,
            budget_s=60,
        )
        row = {"recipe": name, "frames": len(pictures), "size": SIZE, **as_dict(timed)}
        results.append(row | {"promised": PROMISED, "kept": timed.low >= PROMISED})
    header = ["recipe", "ours ms", "PIL ms", "speed-up", "95 %", "promised"]
    rows = [
        [
            str(row["recipe"]),
            f"{1e3 * row['ours_cpu_s']:.0f}",
            f"{1e3 * row['peer_cpu_s']:.0f}",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
            f"{row['promised']:.0f} {'kept' if row['kept'] else 'MISSED'}",
        ]
        for row in results
    ]
    print(table(header, rows))
    if options.out:
        write(options.out, "two views of 64 grey frames: CPU seconds, one thread", results)


if __name__ == "__main__":
    main()
