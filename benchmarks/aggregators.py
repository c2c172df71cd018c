"""CPU time and memory of the server rules of fedseca against their peers.

    python benchmarks/aggregators.py [--quick] [--rules Krum RFA] [--sizes 1e6 1e7] [--device cuda]
                                     [--out benchmarks/results/aggregators.json]

20 clients, float32, two threads. Peers are byzfl's class where it has the same rule, and a plain transcription of the
rule's formula in torch; results are compared before they are timed. FedSECA is also set against ``torch.median`` over
the same matrix, which is one of its steps. The rate is that of the bytes that a rule cannot help reading and writing
over its CPU seconds; its share is of the measured speed of copying memory on one thread. On a GPU it is the clock and
the speed of its own memory, and the peers are those in torch alone. A record that exists keeps the rows that are not
measured again.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aggregator_peers import (
    NaiveFLDetector,
    byzfl_pipeline,
    naive_buckets,
    naive_bulyan,
    naive_clipping,
    naive_dnc,
    naive_dos,
    naive_fedseca,
    naive_fltrust,
    naive_huber,
    naive_krum,
    naive_meamed,
    naive_monna,
    naive_nnm,
    naive_rfa,
    naive_sequential_buckets,
    naive_sign_guard,
    naive_ties,
)
from fedseca.aggregators import (
    DOS,
    RFA,
    TIES,
    Bulyan,
    CenteredClipping,
    CoordinateMedian,
    DnC,
    FedAvg,
    FedNGA,
    FedSECA,
    FLDetector,
    FLTrust,
    HuberMean,
    Krum,
    MeaMed,
    MoNNA,
    RandomBucketClipping,
    SequentialBucketClipping,
    SignGuard,
    SignSGD,
    TrimmedMean,
)
from fedseca.pre_aggregation import NNM, Bucketing, StaticClipping
from paired import as_dict, compare, copy_bandwidth, device, machine, peak_growth, table, write

CLIENTS = 20


class Case(NamedTuple):
    """A rule, its peer, the speed-up it promises from ``least_d`` on, and what it must touch.

    ``reads`` counts passes over the matrix, ``writes`` rows of the result; ``in_torch``: the peer can run on a GPU.
    """

    rule: str
    peer: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    promised: float
    reads: int
    same_result: bool = True
    least_d: int = 0
    writes: int = 1
    in_torch: bool = True


def byzfl(name: str, **options: float) -> Callable[[Tensor], Tensor]:
    """One of byzfl's classes, imported by the first call: a GPU's peers do without."""

    @cache
    def rule() -> Callable[[Tensor], Tensor]:
        import byzfl as library

        return getattr(library, name)(**options)

    return lambda g: rule()(g)


def cases(d: int, where: str) -> list[Case]:
    """Fresh rules for ``d`` coordinates, since some remember; on a GPU with peers in torch alone."""
    every = all_cases(d, where)
    return every if where == "cpu" else [case for case in every if case.in_torch and "byzfl" not in case.peer]


def all_cases(d: int, where: str) -> list[Case]:
    """With every peer."""
    # byzfl counts a client of its own among the honest: its f is our b + 1. The scores then differ by a factor only.
    krum = byzfl("Krum", f=4)
    reference = torch.randn(d, generator=torch.Generator().manual_seed(1)).to(where) * 0.01
    fltrust, clip, clipping = FLTrust(), StaticClipping(2.0), byzfl("Clipping", c=2.0)
    same_call = 1 / 1.10
    threshold, tolerance = 0.01 * d**0.5, 1e-6 * d**0.5
    krum_1, krum_m = (Krum(b=3, m=m, squared=True) for m in (1, 16))
    rfa = RFA(nu=0.1, space="updates")
    return [
        Case("FedAvg", "byzfl.Average", FedAvg(), byzfl("Average"), same_call, 1),
        # Of an even number of values byzfl takes the mean of the middle two, a little more work for another result.
        Case("CoordinateMedian", "byzfl.Median", CoordinateMedian(), byzfl("Median"), 5, 1, False),
        Case("CoordinateMedian", "torch.median", CoordinateMedian(), lambda g: g.median(dim=0).values, 5, 1),
        Case("TrimmedMean(b=1)", "byzfl.TrMean", TrimmedMean(b=1), byzfl("TrMean", f=1), 1, 1),
        Case("TrimmedMean(b=1)", "plain", TrimmedMean(b=1), lambda g: g.sort(dim=0).values[1:-1].mean(0), 1, 1),
        Case("Krum(b=3)", "byzfl.Krum", krum_1, krum, 1, 1),
        Case("Krum(b=3)", "plain", krum_1, lambda g: naive_krum(g, 3), 1, 1),
        Case("Krum(b=3, m=16)", "byzfl.MultiKrum", krum_m, byzfl("MultiKrum", f=4), 1, 2),
        Case("Krum(b=3, m=16)", "plain", krum_m, lambda g: naive_krum(g, 3, 16), 1, 2),
        Case("RFA", "byzfl.GeometricMedian", rfa, byzfl("GeometricMedian", nu=0.1, T=3), 1, 2),
        Case("RFA", "plain", rfa, lambda g: naive_rfa(g, 0.1), 1, 2),
        Case(
            "HuberMean",
            "plain",
            HuberMean(threshold, space="updates", tolerance=tolerance),
            lambda g: naive_huber(g, threshold, tolerance=tolerance),
            1,
            2,
        ),
        Case("DOS", "plain", DOS(space="updates"), naive_dos, 1, 2),
        # Of an even number of values byzfl takes the mean of the middle two for the median.
        Case("MeaMed(b=3)", "byzfl.Meamed", MeaMed(b=3), byzfl("Meamed", f=3), 1, 1, False),
        Case("MeaMed(b=3)", "plain", MeaMed(b=3), lambda g: naive_meamed(g, 3), 1, 1),
        Case("Bulyan(b=3)", "plain", Bulyan(b=3), lambda g: naive_bulyan(g, 3), 1, 2),
        Case("MoNNA(b=3)", "byzfl.MoNNA", MoNNA(b=3), byzfl("MoNNA", f=3), 1, 2),
        Case("MoNNA(b=3)", "plain", MoNNA(b=3), lambda g: naive_monna(g, 3), 1, 2),
        Case("NNM(b=3)", "byzfl.NNM", NNM(b=3), byzfl("NNM", f=3), 1, 2, writes=CLIENTS),
        Case("NNM(b=3)", "plain", NNM(b=3), lambda g: naive_nnm(g, 3), 1, 2, writes=CLIENTS),
        # byzfl clips the matrix that it is given, so it gets one of its own.
        Case("StaticClipping", "byzfl.Clipping", clip, lambda g: clipping(g.clone()), 1, 2, writes=CLIENTS),
        Case(
            "StaticClipping",
            "plain",
            clip,
            lambda g: g * (2.0 / g.norm(dim=1, keepdim=True)).clamp(max=1),
            same_call,  # nearly all of the time is the product, one and the same call
            2,
            writes=CLIENTS,
        ),
        # Other shuffles, hence other results.
        Case("Bucketing", "byzfl.Bucketing", Bucketing(2), byzfl("Bucketing", s=2), 1, 1, False, writes=CLIENTS // 2),
        Case("Bucketing", "plain", Bucketing(2), naive_buckets, 1, 1, False, writes=CLIENTS // 2),
        # Every call is a first round, as the peers' are.
        Case("CenteredClipping", "byzfl", lambda g: CenteredClipping()(g), byzfl("CenteredClipping", L=3), 1, 2, False),
        Case("CenteredClipping", "plain", lambda g: CenteredClipping()(g), naive_clipping, 1, 2),
        Case(
            "RandomBucketClipping",
            "byzfl, two steps",
            lambda g: RandomBucketClipping()(g),
            byzfl_pipeline(byzfl("Bucketing", s=2), byzfl("CenteredClipping", L=3)),
            1,
            2,
            False,
        ),
        Case(
            "RandomBucketClipping",
            "plain",
            lambda g: RandomBucketClipping()(g),
            lambda g: naive_clipping(naive_buckets(g)),
            1,
            2,
            False,
        ),
        Case(
            "SequentialBucketClipping",
            "plain",
            lambda g: SequentialBucketClipping()(g),
            naive_sequential_buckets,
            1,
            2,
            False,
        ),
        Case("FedNGA", "plain", FedNGA(), lambda g: (g / g.norm(dim=1, keepdim=True)).mean(0), 1, 2),
        Case("TIES", "plain", TIES(), lambda g: naive_ties(g, 0.9), 1, 2, in_torch=False),
        Case("SignSGD", "plain", SignSGD(), lambda g: g.sign().sum(0).sign() * 1e-3, 1, 1),
        # These draw other coordinates, or do less.
        Case("DnC(b=3)", "plain", DnC(b=3), lambda g: naive_dnc(g, 3), 1, 1, False),
        Case("SignGuard", "plain", SignGuard(), naive_sign_guard, 1, 2, False),
        Case(
            "FLTrust",
            "plain",
            lambda g: fltrust(g, reference=reference),
            lambda g: naive_fltrust(g, reference),
            1,
            2,
        ),
        Case("FLDetector(window=3)", "plain", FLDetector(window=3), NaiveFLDetector(3), 1, 2, False),
        Case(
            "FLDetector(window=3, faithful)",
            "plain",
            FLDetector(window=3, faithful=True),
            NaiveFLDetector(3, faithful=True),
            1,
            3,  # the uploads of the round before are read and written too
            False,
            writes=1 + CLIENTS,
        ),
        Case("FedSECA", "torch.median", FedSECA(beta=0.0), lambda g: g.median(dim=0).values, 1, 2, False),
        Case("FedSECA", "plain", FedSECA(beta=0.0), naive_fedseca, 10, 2, least_d=1_000_000, in_torch=False),
    ]


def updates(d: int) -> Tensor:
    """Clients that share a direction, as in training, some noisier than others, so that rounding chooses nobody."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(CLIENTS, d, generator=generator).mul_(torch.linspace(0.8, 1.4, CLIENTS)[:, None])
    return g.add_(torch.randn(d, generator=generator)).mul_(0.01)


def measure(case: Case, g: Tensor, pairs: int, bandwidth: float) -> dict[str, Any]:
    """One row of the table."""
    if case.same_result and g.shape[1] <= 1_000_000:
        close = torch.isclose(case.ours(g), case.theirs(g), rtol=1e-4, atol=1e-6)
        # A plain program that adds thirds in float32 sees a majority where there is a tie; that is rare.
        assert close.float().mean() > 0.9999, f"{case.rule} and {case.peer} disagree"
    if case.rule.startswith("FLDetector"):
        for _ in range(3):  # errors are predicted from the third round on
            case.ours(g)
            case.theirs(g)
    where = str(g.device)
    growth = peak_growth(lambda: case.ours(g), where)
    timed = compare(lambda: case.ours(g), lambda: case.theirs(g), pairs, device=where)
    touched = case.reads * g.nbytes + case.writes * g[0].nbytes
    rate = touched / (timed.ours_cpu_s if where == "cpu" else timed.ours_wall_s)
    return {
        "rule": case.rule,
        "peer": case.peer,
        "d": g.shape[1],
        **as_dict(timed),
        "promised": round(case.promised, 2) if g.shape[1] >= case.least_d else None,
        "kept": g.shape[1] < case.least_d or timed.low >= case.promised,
        "gb_s": round(rate / 1e9, 2),
        "of_copy_bandwidth": round(rate / bandwidth, 3),
        "peak_extra_mb": round(growth / 1e6, 1),
        "peak_extra_of_input": round(growth / g.nbytes, 3),
        "date": date.today().isoformat(),
    }


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old rows with the new ones in their places, and those that had none at the end of their size."""

    def place(row: dict[str, Any]) -> tuple[object, ...]:
        return row["d"], row["rule"], row["peer"]

    fresh = {place(row): row for row in new}
    rows = [fresh.pop(place(row), row) for row in old] + list(fresh.values())
    return sorted(rows, key=lambda row: int(row["d"]))


def record(out: Path, results: list[dict[str, Any]], where: str) -> None:
    """Write the results, beside what an earlier run on the same kind of machine left there."""
    here = machine()
    for row in results:
        row["machine"] = here
    old = json.loads(out.read_text())["results"] if out.exists() else []
    # Rows of another making have neither machine nor rate, and cannot stand beside these.
    rows = merged([r for r in old if "machine" in r], results)
    write(out, f"server rules: {'CPU' if where == 'cpu' else 'clock'} seconds, 20 clients, float32", rows, where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, three pairs: does it run?")
    parser.add_argument("--device", type=device, default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    parser.add_argument(
        "--rules", nargs="+", default=[""], help="rules whose names begin so; the others keep their rows"
    )
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 1e7], help="coordinates")
    options = parser.parse_args()
    torch.set_num_threads(2)
    bandwidth = copy_bandwidth(device=options.device)
    results = []
    for d in (100_000,) if options.quick else map(int, options.sizes):
        g = updates(d).to(options.device)
        for case in cases(d, options.device):
            if not case.rule.startswith(tuple(options.rules)):
                continue
            results.append(measure(case, g, 3 if options.quick else 21, bandwidth))
            print(f"{case.rule} against {case.peer} at {d:.0e}: {results[-1]['speedup']:.2f}", flush=True)
    header = [
        "rule",
        "d",
        "ours ms",
        "peer",
        "peer ms",
        "speed-up",
        "95 %",
        "promised",
        "GB/s",
        "of copy",
        "extra/input",
    ]
    clock = "cpu" if options.device == "cpu" else "wall"
    print()
    print(
        table(
            header,
            [
                [
                    row["rule"],
                    f"{row['d']:.0e}",
                    f"{1e3 * row[f'ours_{clock}_s']:.1f}",
                    row["peer"],
                    f"{1e3 * row[f'peer_{clock}_s']:.1f}",
                    f"{row['speedup']:.2f}",
                    f"{row['low']:.2f}-{row['high']:.2f} ({row['pairs']})",
                    "-" if row["promised"] is None else f"{row['promised']:.2f} {'kept' if row['kept'] else 'MISSED'}",
                    f"{row['gb_s']:.1f}",
                    f"{row['of_copy_bandwidth']:.0%}",
                    f"{row['peak_extra_of_input']:.2f}",
                ]
                for row in results
            ],
        )
    )
    if options.out:
        record(options.out, results, options.device)


if __name__ == "__main__":
    main()
