"""Late interaction in tiles against one pair after the other, the machine's matrix product, and what must be stored.

    python benchmarks/clim.py [--quick] [--device cuda] [--out benchmarks/results/clim.json]

128 images by 128 texts, 40 tokens of width 512 each, float32, two threads. Forward: CPU time against a double loop over
pairs, and as a share of the machine's rate of matrix products, which is that of one product of 2048 x 2048 matrices in
the same process, alternating. Training: peak growth of the resident size in forward and backward together, against the
bytes of sets, scores and indices of the best matches; the gradients, which are as large as the sets, are part of the
growth. Values and gradients are compared with the double loop's. Forward once more against an eager einsum of each
text with all images, which is what packages for late interaction fall back to without a GPU.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import local_scores
from paired import as_dict, compare, device, machine, peak_growth, table, write

TOKENS, WIDTH = 40, 512
SPEED_LIMIT = 8.0
RATE_LIMIT = 0.85
MEMORY_LIMIT = 1.5
VALUE_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-4
SIDE = 2048  # of the square matrices whose product is the machine's rate


def sets(count: int, seed: int, where: str) -> Tensor:
    """Unit vectors."""
    drawn = torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn.to(where), dim=-1)


def double_loop(images: Tensor, texts: Tensor) -> Tensor:
    """The formula, one pair after the other."""
    rows = []
    for v in images:
        row = []
        for t in texts:
            s = F.leaky_relu(t @ v.T, 0.1)
            row.append(s.amax(1).mean() + s.amax(0).mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def eager(images: Tensor, texts: Tensor) -> Tensor:
    """The formula, one text with all images after the other."""
    columns = []
    for t in texts:
        s = F.leaky_relu(torch.einsum("qd,bld->bql", t, images), 0.1)
        columns.append(s.amax(2).mean(1) + s.amax(1).mean(1))
    return torch.stack(columns, 1)


def forward_eager(pairs: int, count: int, where: str) -> dict[str, Any]:
    """Speed of the forward pass against an eager einsum."""
    images, texts = sets(count, 0, where), sets(count, 1, where)
    with torch.no_grad():
        gap = float((local_scores(images, texts) - eager(images, texts)).abs().max())
        timed = compare(lambda: local_scores(images, texts), lambda: eager(images, texts), pairs, device=where)
    return (
        {"measure": "forward against an eager einsum", "images": count, "texts": count}
        | as_dict(timed)
        | {"value_gap": gap, "equal": gap <= VALUE_LIMIT}
    )


def forward(pairs: int, count: int, where: str) -> dict[str, Any]:
    """Speed of the forward pass against the double loop."""
    images, texts = sets(count, 0, where), sets(count, 1, where)
    with torch.no_grad():
        gap = float((local_scores(images, texts) - double_loop(images, texts)).abs().max())
        timed = compare(lambda: local_scores(images, texts), lambda: double_loop(images, texts), pairs, device=where)
    return (
        {"measure": "forward against a double loop", "images": count, "texts": count}
        | as_dict(timed)
        | {"limit": SPEED_LIMIT, "holds": timed.low >= SPEED_LIMIT, "value_gap": gap, "equal": gap <= VALUE_LIMIT}
    )


def share_of_rate(pairs: int, count: int, where: str) -> dict[str, Any]:
    """Share of the machine's rate of matrix products, by CPU time, and by the clock."""
    images, texts = sets(count, 0, where), sets(count, 1, where)
    left, right = torch.randn(2, SIDE, SIDE, device=where)
    work, whole = 2 * (count * TOKENS) ** 2 * WIDTH, 2 * SIDE**3
    with torch.no_grad():
        timed = compare(lambda: local_scores(images, texts), lambda: left @ right, pairs, device=where)
    scale = work / whole
    return (
        {"measure": "share of the rate of matrix products", "images": count, "texts": count}
        | as_dict(timed)
        | {
            "gflops": round(work / timed.ours_wall_s / 1e9, 1),
            "matmul_gflops": round(whole / timed.peer_wall_s / 1e9, 1),
            "share": round(timed.speedup * scale, 3),
            "share_low": round(timed.low * scale, 3),
            "share_high": round(timed.high * scale, 3),
            "limit": RATE_LIMIT,
            "holds": timed.low * scale >= RATE_LIMIT,
        }
    )


def training(pairs: int, count: int, where: str) -> dict[str, Any]:
    """Time and memory of value and gradients."""
    images, texts = sets(count, 0, where).requires_grad_(), sets(count, 1, where).requires_grad_()
    upstream = torch.randn(count, count, generator=torch.Generator().manual_seed(2)).to(where)

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(local_scores(images, texts), (images, texts), upstream)

    def peer() -> tuple[Tensor, ...]:
        return torch.autograd.grad(double_loop(images, texts), (images, texts), upstream)

    gap = max(float((a - b).norm() / b.norm()) for a, b in zip(ours(), peer(), strict=True))
    growth = peak_growth(ours, where)
    stored = 4 * (images.numel() + texts.numel()) + 4 * count**2 + 2 * count**2 * TOKENS
    timed = compare(ours, peer, pairs, device=where)
    return (
        {"measure": "forward and backward against a double loop", "images": count, "texts": count}
        | as_dict(timed)
        | {
            "peak_mb": round(growth / 1e6, 1),
            "stored_mb": round(stored / 1e6, 1),
            "memory_ratio": round(growth / stored, 3),
            "limit": MEMORY_LIMIT,
            "holds": growth <= MEMORY_LIMIT * stored,
            "gradient_gap": gap,
            "equal": gap <= GRADIENT_LIMIT,
        }
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three pairs with 32 images and texts")
    parser.add_argument("--pairs", type=int, default=21, help="pairs; fewer where a pair takes long")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; one on a busy machine")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.rand(512, 512) @ torch.rand(512, 512)  # wakes the threads
    count, pairs = (32, 3) if options.quick else (128, options.pairs)
    size = (pairs, count, options.device)
    speed, rate, memory, einsum = (measure(*size) for measure in (forward, share_of_rate, training, forward_eager))
    rows = [
        ["forward: times as fast as an eager einsum", f"{einsum['speedup']:.1f}", interval(einsum), ""],
        ["forward: times as fast as a double loop", f"{speed['speedup']:.1f}", interval(speed), f"{SPEED_LIMIT:.0f}"],
        [
            "forward: share of the rate of matrix products",
            f"{rate['share']:.2f}",
            f"{rate['share_low']:.2f} to {rate['share_high']:.2f}",
            f"{RATE_LIMIT}",
        ],
        ["forward and backward: times as fast", f"{memory['speedup']:.1f}", interval(memory), ""],
        [
            f"forward and backward: peak of {memory['peak_mb']} MB over {memory['stored_mb']} MB",
            f"{memory['memory_ratio']:.2f}",
            "",
            f"at most {MEMORY_LIMIT}",
        ],
    ]
    print(table([f"late interaction, {count} x {count}", "measured", "95 %", "limit"], rows))
    print(f"gaps: values {speed['value_gap']:.0e}, gradients {memory['gradient_gap']:.0e}")
    print(machine())
    if options.out:
        about = "late interaction in tiles against one pair after the other"
        write(options.out, about, [speed, rate, memory, einsum], options.device)


def interval(result: dict[str, Any]) -> str:
    """The 95 % interval of a speed-up."""
    return f"{result['low']:.1f} to {result['high']:.1f}"


if __name__ == "__main__":
    main()
