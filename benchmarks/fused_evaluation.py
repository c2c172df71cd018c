"""Resident memory and time of the fused evaluation of 1,000 pictures by 1,000 captions.

    python benchmarks/fused_evaluation.py [--quick] [--out benchmarks/results/fused_evaluation.json]

Random global vectors and refined sets of ViT-B/16 (40 tokens of width 512 on both sides) go through the evaluation that
``finelip test`` makes: recall and ranks both ways, by the global and by the fused score. The memory is the most that
the whole process had at once, libraries included. Beside it what all scores between tokens would take, as a dense
evaluation holds them, and the bytes of the sets, which are the floor. The same numbers from the dense way are compared
at a tenth of the size.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import local_scores
from finelip.evaluation import EvaluationSet
from finelip.finelip import FineLIP
from finelip.scores import fuse_scores, global_scores
from paired import machine, table, write
from shared.measurement import reset_resident_peak, resident_peak
from shared.metrics.retrieval import positions, retrieval_scores

TOKENS, WIDTH = 40, 512
LIMIT_GB = 2.0


def vectors(seed: int, *shape: int) -> Tensor:
    """Unit vectors."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def evaluation_set(count: int) -> EvaluationSet:
    """An evaluation set as ``finelip test`` gathers it; pairs have something in common."""
    common = vectors(0, count, TOKENS, WIDTH)
    data = EvaluationSet()
    for rows in torch.arange(count).split(64):
        images, texts = (F.normalize(common[rows] + vectors(s, len(rows), TOKENS, WIDTH), dim=-1) for s in (1, 2))
        data.images.append(images[:, 0])
        data.image_sets.append(images)
        data.ids.append(rows)
        data.whole.vectors.append(texts[:, -1])
        data.whole.sets.append(texts)
        data.whole.masks.append(torch.ones(len(rows), TOKENS, dtype=torch.bool))
    return data


def dense(data: EvaluationSet) -> dict[str, float]:
    """Recalls of the fused score, all tokens against all at once."""
    images, texts = torch.cat(data.image_sets), torch.cat(data.whole.sets)
    coarse = global_scores(torch.cat(data.images), torch.cat(data.whole.vectors))
    scores = fuse_scores(coarse, local_scores(images, texts, tile_bytes=1 << 40))
    return {
        f"fused/{way}_{name}": value
        for way, found in zip(("i2t", "t2i"), positions(scores), strict=True)
        for name, value in retrieval_scores(found).items()
    }


def measure(count: int) -> dict[str, Any]:
    """One evaluation."""
    model = FineLIP("clip_tiny")
    small = evaluation_set(count // 10)
    streamed, whole = small.scores(model), dense(small)
    equal = all(abs(streamed[name] - value) < 1e-6 for name, value in whole.items())
    data = evaluation_set(count)
    reset_resident_peak()
    began = time.perf_counter()
    data.scores(model)
    seconds, peak = time.perf_counter() - began, resident_peak()
    return {
        "images": count,
        "texts": count,
        "seconds": round(seconds, 2),
        "peak_gb": round(peak / 1e9, 3),
        "limit_gb": LIMIT_GB,
        "holds": peak < LIMIT_GB * 1e9,
        "dense_gb": round(4 * (count * TOKENS) ** 2 / 1e9, 1),
        "sets_gb": round(2 * 4 * count * TOKENS * WIDTH / 1e9, 3),
        "equal": equal,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 by 100")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(2)
    result = measure(100 if options.quick else 1000)
    print(table(list(result), [[str(value) for value in result.values()]]))
    print(machine())
    if options.out:
        write(options.out, "fused evaluation in tiles", [result])


if __name__ == "__main__":
    main()
