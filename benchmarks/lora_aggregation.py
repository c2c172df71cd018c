"""CPU time of combining LoRA factors exactly, against a randomised SVD of the dense products.

    python benchmarks/lora_aggregation.py [--quick] [--out benchmarks/results/lora_aggregation.json]

Six clients with rank 32 in all 38 targets of a SAM with a ViT-B encoder: 24 of 768 x 768, and 14 of the mask decoder.
The peer adds the dense products of the clients and calls scikit-learn's ``randomized_svd`` with its default
iterations, once per target, as the FLAP-SAM reference code does. ``unrelated`` clients are drawn independently, which
gives the flat spectrum in which a randomised SVD errs; ``related`` ones share a decaying part, as after training.
Errors are the largest entry of the difference to the best product of rank 32 by LAPACK in float64, relative to the
largest entry of that product. Threads are those that both may use; the rule takes one.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from fedsam.lora_aggregation import PRESETS, SVDExact
from fedsam.lora_products import lora_pairs
from paired import as_dict, compare, table, write
from shared.measurement import cpu_and_wall

RANK = 32
PROMISED = 8.0
State = dict[str, Tensor]


def shapes(quick: bool) -> dict[str, tuple[int, int]]:
    """``(out, in)`` of every target."""
    targets = {f"encoder.{block}.lora_{which}": (768, 768) for block in range(2 if quick else 12) for which in "qv"}
    for layer in range(2):
        targets |= {f"decoder.{layer}.self.lora_{which}": (256, 256) for which in "qv"}
        targets |= {f"decoder.{layer}.{way}.lora_{which}": (128, 256) for way in ("down", "up") for which in "qv"}
    return targets | {f"decoder.final.lora_{which}": (128, 256) for which in "qv"}


def clients(targets: dict[str, tuple[int, int]], related: bool) -> list[State]:
    """What six clients upload."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.logspace(0, -2, RANK)[:, None]
    shared: State = {}
    for target, (out, width) in targets.items():
        shared[f"{target}.A"] = torch.randn(RANK, width, generator=generator) * decay
        shared[f"{target}.B"] = torch.randn(out, RANK, generator=generator)
    uploads = []
    for _ in PRESETS["kits"]:
        own = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in shared.items()}
        if related:
            own = {
                name: shared[name] + 0.1 * tensor * (decay if name.endswith("A") else 1) for name, tensor in own.items()
            }
        uploads.append(own)
    return uploads


def dense(uploads: list[State], target: str, dtype: torch.dtype) -> Tensor:
    """The weighted mean of the products."""
    parts = zip(PRESETS["kits"], uploads, strict=True)
    products = (w * (u[f"{target}.B"].to(dtype) @ u[f"{target}.A"].to(dtype)) for w, u in parts)
    return torch.stack(list(products)).sum(0)


def randomised(uploads: list[State]) -> State:
    """The peer."""
    combined: State = {}
    for pair in lora_pairs(uploads[0]):
        u, s, vh = randomized_svd(dense(uploads, pair.target, torch.float32).numpy(), RANK, random_state=0)
        combined[pair.b], combined[pair.a] = torch.from_numpy(u), torch.from_numpy(s[:, None] * vh)
    return combined


def error(combined: State, uploads: list[State]) -> float:
    """Of the worst of one target of each shape."""
    worst = {}
    for target in {u.shape: n.removesuffix(".B") for n, u in uploads[0].items() if n.endswith(".B")}.values():
        u, s, vh = np.linalg.svd(dense(uploads, target, torch.float64).numpy(), full_matrices=False)
        best = u[:, :RANK] * s[:RANK] @ vh[:RANK]
        ours = (combined[f"{target}.B"].double() @ combined[f"{target}.A"].double()).numpy()
        worst[target] = float(np.abs(ours - best).max() / np.abs(best).max())
    return max(worst.values())


def least_flops(targets: dict[str, tuple[int, int]], clients: int) -> float:
    """Operations of the exact way in float64 where no symmetric or triangular half is computed twice.

    Two Gram matrices, the core, its eigenvectors (5 n^3), and the factors from the leading ones.
    """
    total = 0.0
    for out, width in targets.values():
        n = clients * RANK
        core = min(n, out)
        grams = n * n * (width + (out if n < out else 0))
        total += grams + 2 * n * n * core + 5 * core**3 + 2 * RANK * n * (2 * out + width)
    return total


def multiplication_rate() -> float:
    """Operations per second of a float64 matrix product of the size that prevails."""
    a = torch.randn(len(PRESETS["kits"]) * RANK, 768, dtype=torch.float64)
    return 2 * len(a) ** 2 * 768 / min(cpu_and_wall(lambda: a @ a.T, 20)[0] for _ in range(7))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four of the encoder's targets, three pairs")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    options = parser.parse_args()
    targets = shapes(options.quick)
    torch.set_num_threads(1)
    rate = multiplication_rate()
    results: list[dict[str, Any]] = []
    for kind, threads in itertools.product(("unrelated", "related"), (1, 2)):
        torch.set_num_threads(threads)
        uploads = clients(targets, kind == "related")
        rule = SVDExact("kits")

        def ours(uploads: list[State] = uploads, rule: SVDExact = rule) -> State:
            ids = list(range(len(uploads)))
            return rule(uploads, origin=uploads[0], weights=torch.ones(len(ids)), client_ids=ids, round=0)

        def peer(uploads: list[State] = uploads) -> State:
            return randomised(uploads)

        errors = error(ours(), uploads), error(peer(), uploads)
        assert errors[0] < 1e-5, f"the exact rule errs by {errors[0]}"
        with threadpool_limits(threads):
            timed = compare(ours, peer, 3 if options.quick else 21, budget_s=45)
        results.append(
            {
                "clients": kind,
                "threads": threads,
                "targets": len(targets),
                **as_dict(timed),
                "promised": PROMISED,
                "kept": timed.low >= PROMISED,
                "least_gflop": round(least_flops(targets, len(uploads)) / 1e9, 3),
                "gflop_s": round(rate / 1e9, 1),
                "kept_energy": round(float(rule.diagnostics["kept_energy"]), 4),
                "our_error": errors[0],
                "peer_error": errors[1],
            }
        )
    header = [
        "clients",
        "threads",
        "targets",
        "ours ms",
        "peer ms",
        "speed-up",
        "95 %",
        "promised",
        "energy",
        "error",
        "peer's",
    ]
    rows = [
        [
            row["clients"],
            str(row["threads"]),
            str(row["targets"]),
            f"{1e3 * row['ours_cpu_s']:.1f}",
            f"{1e3 * row['peer_cpu_s']:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
            f"{row['promised']:.0f} {'kept' if row['kept'] else 'MISSED'}",
            f"{row['kept_energy']:.3f}",
            f"{row['our_error']:.1e}",
            f"{row['peer_error']:.1e}",
        ]
        for row in results
    ]
    print(table(header, rows))
    if options.out:
        write(options.out, "combining LoRA factors: CPU seconds, 6 clients, rank 32, ViT-B", results)


if __name__ == "__main__":
    main()
