"""The losses of Barlow Twins and VICReg against lightly's: time and memory of value and gradient.

    python benchmarks/ssl_losses.py [--quick] [--out benchmarks/results/ssl_losses.json]

Embeddings of two views, D = 8192 wide, in float32 and as bfloat16 under autocast. Ours never forms the D x D matrix
where the batch is smaller than D. Calls alternate in one process and their CPU time is compared; memory is growth over
the resident size before the call. Values and gradients are compared as well. A last table times both of our own ways
for batches around the width, from which the point of change is read.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss as LightlyBarlowTwinsLoss
from lightly.loss import VICRegLoss
from torch import Tensor
from torch.nn import functional as F

from paired import as_dict, compare, machine, peak_growth, table, write
from usssl.losses.barlow_twins import LAMBDA, BarlowTwinsLoss, cross_correlation_penalty
from usssl.losses.vicreg import variance_covariance, vicreg_loss

Loss = Callable[[Tensor, Tensor], Tensor]
WIDTH = 8192
LIMITS = {32: 50.0, 256: 10.0}  # times as fast as lightly, by batch
MEMORY_LIMIT = 0.1
VALUE_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-4
SHARES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the width


def views(batch: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Embeddings that have something in common, with gradient."""
    generator = torch.Generator().manual_seed(batch)
    common, first, second = (torch.randn(batch, width, generator=generator) for _ in range(3))
    return tuple((common + other).to(dtype).requires_grad_() for other in (first, second))  # type: ignore[return-value]


def step(loss: Loss, z1: Tensor, z2: Tensor, autocast: bool) -> Callable[[], tuple[Tensor, ...]]:
    """Value and gradients of a loss."""

    def run() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(z1, z2)
        return value.detach(), *torch.autograd.grad(value, (z1, z2))

    return run


def against_lightly(
    name: str, ours: Loss, peer: Loss, batch: int, width: int, autocast: bool, pairs: int
) -> dict[str, Any]:
    """One row. Agreement is measured in float32 on both sides: bfloat16 products are lightly's own rounding."""
    z1, z2 = views(batch, width, torch.float32)
    mine, theirs = step(ours, z1, z2, False)(), step(peer, z1, z2, False)()
    value_gap = float((mine[0] - theirs[0]).abs() / theirs[0].abs())
    gradient_gap = max(float((a - b).norm() / b.norm()) for a, b in zip(mine[1:], theirs[1:], strict=True))
    if autocast:
        z1, z2 = views(batch, width, torch.bfloat16)
    run, run_peer = step(ours, z1, z2, autocast), step(peer, z1, z2, autocast)
    memory, peer_memory = peak_growth(run), peak_growth(run_peer)
    timed = compare(run, run_peer, pairs)
    limit = LIMITS.get(batch)
    return (
        {"loss": name, "batch": batch, "width": width, "precision": "bf16 autocast" if autocast else "float32"}
        | as_dict(timed)
        | {
            "limit": limit,
            "holds": limit is None or timed.low >= limit,
            "ours_peak_mb": round(memory / 1e6, 1),
            "peer_peak_mb": round(peer_memory / 1e6, 1),
            "memory_ratio": round(memory / peer_memory, 3) if peer_memory else None,
            "memory_holds": memory <= MEMORY_LIMIT * peer_memory,
            "value_gap": value_gap,
            "gradient_gap": gradient_gap,
            "equal": value_gap <= VALUE_LIMIT and gradient_gap <= GRADIENT_LIMIT,
        }
    )


def point_of_change(width: int, pairs: int) -> list[dict[str, Any]]:
    """Both ways of our own losses for batches around the width; above 1 the Gram matrices are faster."""

    def barlow_twins(gram: bool) -> Loss:
        return lambda a, b: cross_correlation_penalty(a, b, LAMBDA, gram)

    def vicreg(gram: bool) -> Loss:
        return lambda a, b: variance_covariance(a, gram=gram) + variance_covariance(b, gram=gram)

    rows = []
    for share in SHARES:
        z1, z2 = views(round(share * width), width, torch.float32)
        for name, ways in (("barlowtwins", barlow_twins), ("vicreg", vicreg)):
            timed = compare(step(ways(True), z1, z2, False), step(ways(False), z1, z2, False), pairs)
            rows.append({"loss": name, "width": width, "batch_of_width": share} | as_dict(timed))
    return rows


def measure(width: int, batches: list[int], pairs: int) -> list[dict[str, Any]]:
    """All rows against lightly."""

    def barlow_twins(z1: Tensor, z2: Tensor) -> Tensor:
        return criterion(z1, z2)

    criterion = BarlowTwinsLoss(width)
    cases: list[tuple[str, Loss, Loss]] = [
        ("barlowtwins", barlow_twins, LightlyBarlowTwinsLoss(LAMBDA)),
        ("vicreg", vicreg_loss, VICRegLoss()),
    ]
    return [
        against_lightly(name, ours, peer, batch, width, autocast, pairs)
        for batch in batches
        for autocast in (False, True)
        for name, ours, peer in cases
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs at a width of 1024")
    parser.add_argument("--pairs", type=int, default=21, help="pairs; fewer where a pair takes long")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; one on a busy machine")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Warm up the threads, so that the first row does not pay for them.
    F.mse_loss(torch.rand(512, 512) @ torch.rand(512, 512), torch.rand(512, 512))
    if options.quick:
        results, change = measure(1024, [32], 3), point_of_change(256, 3)
    else:
        results, change = measure(WIDTH, [32, 256], options.pairs), point_of_change(1024, options.pairs)
    header = ["loss", "B", "precision", "ours", "lightly", "speed-up", "95 %", "limit", "ours MB", "lightly MB"]
    rows = [
        [
            r["loss"],
            str(r["batch"]),
            r["precision"],
            f"{1e3 * r['ours_cpu_s']:.2f} ms",
            f"{1e3 * r['peer_cpu_s']:.1f} ms",
            f"{r['speedup']:.1f}",
            f"{r['low']:.1f} to {r['high']:.1f}",
            "" if r["limit"] is None else f"{r['limit']:.0f}",
            f"{r['ours_peak_mb']:.1f}",
            f"{r['peer_peak_mb']:.1f}",
        ]
        for r in results
    ]
    print(
        table(
            [*header, "value gap", "gradient gap"],
            [[*row, f"{r['value_gap']:.0e}", f"{r['gradient_gap']:.0e}"] for row, r in zip(rows, results, strict=True)],
        )
    )
    print(
        table(
            ["loss", "B / D", "Gram faster by", "95 %"],
            [
                [r["loss"], f"{r['batch_of_width']:.2f}", f"{r['speedup']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}"]
                for r in change
            ],
        )
    )
    print(machine())
    if options.out:
        write(
            options.out, "losses of Barlow Twins and VICReg against lightly, and Gram against matrix", results + change
        )


if __name__ == "__main__":
    main()
