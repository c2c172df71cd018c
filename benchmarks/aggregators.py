"""CPU time and memory of the server rules of fedseca against their peers.

    python benchmarks/aggregators.py [--quick] [--only RULE] [--out benchmarks/results/aggregators.json]

20 clients, float32, two threads. Where byzfl has the same rule its own class is the peer, and the results are compared
before they are timed. FedSECA has no published peer: it is set against a plain transcription of its steps, and against
``torch.median`` over the same matrix, which is one of those steps. Floors are the bytes that a rule cannot help reading
and writing, at the measured speed of copying memory.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedseca.aggregators import CenteredClipping, CoordinateMedian, FedAvg, FedSECA, Krum, TrimmedMean
from paired import as_dict, compare, machine, peak_growth, table, write

CLIENTS = 20


def naive_fedseca(g: Tensor, gamma: float = 0.9) -> Tensor:
    """The steps of the released variant in the words of the paper: pairs in loops, one library call per step."""
    k, d = g.shape
    signs = torch.sign(g)
    omega = torch.zeros(k, k)
    for i in range(k):
        for j in range(k):
            omega[i, j] = (signs[i] * signs[j]).sum() / d
    rho = omega.sign().mean(1).clamp(min=0)
    norms = g.norm(dim=1)
    clipped = g * (norms.median() / norms).clamp(max=1)[:, None]
    mu = clipped.abs().median(dim=0).values
    x = g.clamp(-mu, mu)
    for i in range(k):
        x[i][g[i].abs() < float(np.quantile(g[i].abs().numpy().astype(np.float64), gamma))] = 0
    elected = (rho[:, None] * x.sign()).sum(0).sign()
    aligned = elected * x > 0
    return (x * aligned).sum(0) / aligned.sum(0).clamp(min=1)


class Case(NamedTuple):
    """A rule, its peer, the speed-up it promises from ``least_d`` on, and how often its floor reads the matrix."""

    rule: str
    peer: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    promised: float
    reads: int
    same_result: bool = True
    least_d: int = 0


def cases() -> list[Case]:
    """Fresh rules, since some remember."""
    import byzfl

    # byzfl counts a client of its own among the honest: its f is our b + 1. The scores then differ by a factor only.
    krum = byzfl.Krum(f=4)
    same_call = 1 / 1.10
    return [
        Case("FedAvg", "byzfl.Average", FedAvg(), byzfl.Average(), same_call, 1),
        # Of an even number of values byzfl takes the mean of the middle two, a little more work for another result.
        Case("CoordinateMedian", "byzfl.Median", CoordinateMedian(), byzfl.Median(), 5, 1, False),
        Case("CoordinateMedian", "torch.median", CoordinateMedian(), lambda g: g.median(dim=0).values, 5, 1),
        Case("TrimmedMean(b=1)", "byzfl.TrMean", TrimmedMean(b=1), byzfl.TrMean(f=1), 1, 1),
        Case("Krum(b=3)", "byzfl.Krum", Krum(b=3, squared=True), krum, 1, 1),
        Case("CenteredClipping", "byzfl.CenteredClipping", CenteredClipping(), byzfl.CenteredClipping(L=3), 1, 6),
        Case("FedSECA", "torch.median", FedSECA(beta=0.0), lambda g: g.median(dim=0).values, 1, 2, False),
        Case("FedSECA", "naive FedSECA", FedSECA(beta=0.0), naive_fedseca, 10, 2, least_d=1_000_000),
    ]


def updates(d: int) -> Tensor:
    """Clients that share a direction, as in training."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(CLIENTS, d, generator=generator)
    return g.add_(torch.randn(d, generator=generator)).mul_(0.01)


def measure(case: Case, g: Tensor, pairs: int, bandwidth: float) -> dict[str, Any]:
    """One row of the table."""
    if case.same_result:
        close = torch.isclose(case.ours(g), case.theirs(g), rtol=1e-4, atol=1e-6)
        # A plain program that adds thirds in float32 sees a majority where there is a tie; that is rare.
        assert close.float().mean() > 0.9999, f"{case.rule} and {case.peer} disagree"
    growth = peak_growth(lambda: case.ours(g))
    timed = compare(lambda: case.ours(g), lambda: case.theirs(g), pairs)
    floor = (case.reads * g.nbytes + g[0].nbytes) / bandwidth
    return {
        "rule": case.rule,
        "peer": case.peer,
        "d": g.shape[1],
        **as_dict(timed),
        "promised": round(case.promised, 2) if g.shape[1] >= case.least_d else None,
        "kept": g.shape[1] < case.least_d or timed.low >= case.promised,
        "floor_s": round(floor, 6),
        "times_floor": round(timed.ours_cpu_s / floor, 1),
        "peak_extra_mb": round(growth / 1e6, 1),
        "peak_extra_of_input": round(growth / g.nbytes, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, three pairs: does it run?")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    parser.add_argument("--only", default="", help="rules whose name begins so")
    options = parser.parse_args()
    torch.set_num_threads(2)
    bandwidth = machine()["copy_bandwidth_gb_s"] * 1e9
    results = []
    for d in (100_000,) if options.quick else (100_000, 1_000_000, 10_000_000):
        g = updates(d)
        for case in (case for case in cases() if case.rule.startswith(options.only)):
            results.append(measure(case, g, 3 if options.quick else 21, bandwidth))
            print(f"{case.rule} against {case.peer} at {d:.0e}: {results[-1]['speedup']:.2f}", flush=True)
    header = ["rule", "d", "ours ms", "peer", "peer ms", "speed-up", "95 %", "promised", "x floor", "extra/input"]
    print()
    print(
        table(
            header,
            [
                [
                    row["rule"],
                    f"{row['d']:.0e}",
                    f"{1e3 * row['ours_cpu_s']:.1f}",
                    row["peer"],
                    f"{1e3 * row['peer_cpu_s']:.1f}",
                    f"{row['speedup']:.2f}",
                    f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
                    "-" if row["promised"] is None else f"{row['promised']:.2f} {'kept' if row['kept'] else 'MISSED'}",
                    f"{row['times_floor']:.1f}",
                    f"{row['peak_extra_of_input']:.2f}",
                ]
                for row in results
            ],
        )
    )
    if options.out:
        write(options.out, "server rules: CPU seconds, 20 clients, float32", results)


if __name__ == "__main__":
    main()
