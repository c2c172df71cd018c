"""What the benchmarks share: alternating pairs, peak memory, the machine, the table and the JSON file.

Two programs are timed in turn, so that whatever else the machine does falls on both. Time is CPU time of the process
over all its threads, on a GPU the clock until it is done. A result is the median of the ratios of all pairs with a
95 % interval from their order statistics, which assumes nothing about how times are distributed.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from shared.device import device_named
from shared.errors import UsageError
from shared.measurement import copy_bandwidth, cpu_and_wall, machine, median_interval, peak_growth
from shared.text_table import text_table as table

__all__ = [
    "Pairs",
    "as_dict",
    "compare",
    "copy_bandwidth",
    "device",
    "machine",
    "median_interval",
    "peak_growth",
    "table",
    "write",
]

# All pairs together take about this long, as far as their least number allows.
BUDGET_S = 6.0
FEWEST = 3
PROMISES = {"limit", "holds", "time_limit", "time_holds", "memory_limit", "memory_holds", "promised", "kept"}
"""What a row says about limits, which are those of CPUs."""
# A sample lasts at least so long: a call of less is repeated.
SAMPLE_S = 0.05


@dataclass(frozen=True)
class Pairs:
    """Seconds of CPU and of the clock (medians), and how many times as much the peer takes: CPU, on a GPU clock."""

    pairs: int
    ours_cpu_s: float
    peer_cpu_s: float
    ours_wall_s: float
    peer_wall_s: float
    speedup: float
    low: float
    high: float


def device(name: str) -> str:
    """The type of an option ``--device``: cpu, or a GPU that is here.

    Raises:
        ArgumentTypeError: There is no such device.
    """
    try:
        return str(device_named(name))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def compare(
    ours: Callable[[], object],
    peer: Callable[[], object],
    pairs: int,
    budget_s: float = BUDGET_S,
    device: str = "cpu",
) -> Pairs:
    """Time two programs in turn, after one call of each that does not count; less often where a pair is long."""
    once = [cpu_and_wall(function)[1] for function in (ours, peer)]
    pairs = min(pairs, max(FEWEST, int(budget_s / max(sum(once), 2 * SAMPLE_S))))
    calls = [max(1, math.ceil(SAMPLE_S / seconds)) for seconds in once]
    rounds = [(cpu_and_wall(ours, calls[0]), cpu_and_wall(peer, calls[1])) for _ in range(pairs)]
    clock = 0 if device == "cpu" else 1  # a processor that waits for a GPU says nothing about the GPU
    speedups = [theirs[clock] / mine[clock] for mine, theirs in rounds]
    low, high = median_interval(speedups)
    (ours_cpu, ours_wall), (peer_cpu, peer_wall) = (
        [median(side[which] for side in sides) for which in (0, 1)] for sides in zip(*rounds, strict=True)
    )
    return Pairs(pairs, ours_cpu, peer_cpu, ours_wall, peer_wall, median(speedups), low, high)


def write(out: Path, about: str, results: Sequence[dict[str, Any]], device: str = "cpu") -> None:
    """The machine and the results as JSON; of a GPU without the limits, which are promises about CPUs."""
    here, rows = machine(), list(results)
    if device != "cpu":
        here |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        rows = [{name: value for name, value in row.items() if name not in PROMISES} for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "machine": here, "results": rows}, indent=1) + "\n")


def as_dict(pairs: Pairs) -> dict[str, Any]:
    """Rounded to what the clock can tell."""
    return {name: round(value, 6) for name, value in asdict(pairs).items()}
