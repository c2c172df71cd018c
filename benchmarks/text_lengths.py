"""Encoding texts in batches of similar length, cut to their longest, against all 248 slots.

    python benchmarks/text_lengths.py [--quick] [--out benchmarks/results/text_lengths.json]

The text tower of ViT-B/16 with random weights and stretched positions; random captions of about 130 tokens, the length
of a caption of ShareGPT4V. Ours: sorted by length, 32 at a time, cut to the longest of each batch. The peer: the same
captions in the order given, all slots. Under the causal mask the slots behind the end of a text change nothing before
it, so both give the same tokens, which is checked. Calls alternate in one process and their CPU time is compared. The
floor is the share of slots that are in use.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finelip.finelip import FineLIP
from finelip.tokenizer import EOS, SOT, cut_to_longest, true_lengths
from paired import as_dict, compare, machine, table, write

BATCH = 32
MEAN, SPREAD = 130, 35  # tokens
LIMIT = 1.3
GAP_LIMIT = 1e-5


def captions(count: int, slots: int) -> Tensor:
    """``(count, slots)`` ids of random captions."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(count, generator=generator) * SPREAD + MEAN).round().long().clamp(8, slots)
    ids = torch.randint(1, SOT, (count, slots), generator=generator)
    places = torch.arange(slots)
    ids[:, 0] = SOT
    ids[torch.arange(count), lengths - 1] = EOS
    return ids * (places < lengths[:, None])


def encode(model: FineLIP, ids: Tensor, similar: bool) -> tuple[Tensor, Tensor]:
    """Global vectors and sets of all captions, in the order given."""
    lengths = true_lengths(ids)
    order = lengths.argsort(stable=True) if similar else torch.arange(len(ids))
    vectors, sets = torch.empty(len(ids), model.dim), None
    for rows in order.split(BATCH):
        batch = cut_to_longest(ids[rows], lengths[rows]) if similar else ids[rows]
        found = model.encode_text(batch, lengths[rows])
        sets = found.tokens.new_empty(len(ids), *found.tokens.shape[1:]) if sets is None else sets
        vectors[rows], sets[rows] = found.vector, found.tokens
    assert sets is not None
    return vectors, sets


@torch.inference_mode()
def measure(backbone: str, count: int, pairs: int) -> dict[str, Any]:
    """One comparison."""
    model = FineLIP(backbone).eval()
    ids = captions(count, model.context_length)
    ours, peer = encode(model, ids, True), encode(model, ids, False)
    gap = max(float((a - b).abs().max()) for a, b in zip(ours, peer, strict=True))
    timed = compare(lambda: encode(model, ids, True), lambda: encode(model, ids, False), pairs, budget_s=240)
    lengths = true_lengths(ids)
    return (
        {"backbone": backbone, "captions": count, "mean_tokens": round(float(lengths.float().mean()), 1)}
        | as_dict(timed)
        | {
            "floor": round(float(lengths.float().mean()) / model.context_length, 3),
            "limit": LIMIT,
            "holds": timed.low >= LIMIT,
            "gap": gap,
            "equal": gap <= GAP_LIMIT,
        }
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs of the small model")
    parser.add_argument("--pairs", type=int, default=21, help="pairs; fewer where a pair takes long")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    result = measure("clip_tiny", 64, 3) if options.quick else measure("ViT-B-16-quickgelu", 64, options.pairs)
    print(
        table(
            ["backbone", "tokens", "ours s", "all slots s", "times as fast", "95 %", "limit", "slots in use", "gap"],
            [
                [
                    result["backbone"],
                    f"{result['mean_tokens']:.0f}",
                    f"{result['ours_cpu_s']:.2f}",
                    f"{result['peer_cpu_s']:.2f}",
                    f"{result['speedup']:.2f}",
                    f"{result['low']:.2f} to {result['high']:.2f} ({result['pairs']})",
                    f"{LIMIT}",
                    f"{result['floor']:.2f}",
                    f"{result['gap']:.0e}",
                ]
            ],
        )
    )
    print(machine())
    if options.out:
        write(options.out, "texts cut to the longest of batches of similar length against all slots", [result])


if __name__ == "__main__":
    main()
