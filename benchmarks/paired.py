"""What the benchmarks share: alternating pairs, peak memory, the machine, the table and the JSON file.

Two programs are timed in turn, so that whatever else the machine does falls on both. Time is CPU time of the process
over all its threads. A result is the median of the ratios of all pairs with a 95 % interval from their order
statistics, which assumes nothing about how times are distributed.
"""

import ctypes
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

# All pairs together take about this long, as far as their least number allows.
BUDGET_S = 6.0
FEWEST = 3
# A sample lasts at least so long: a call of less is repeated.
SAMPLE_S = 0.05
SETTLE_S = 0.02


@dataclass(frozen=True)
class Pairs:
    """Seconds of CPU and of the clock (medians), and how many times as much CPU the peer takes."""

    pairs: int
    ours_cpu_s: float
    peer_cpu_s: float
    ours_wall_s: float
    peer_wall_s: float
    speedup: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics between which the median lies with 95 % confidence (all values where there are too few).

    Example:
        >>> median_interval(range(1, 22))
        (6, 16)
    """
    ordered = sorted(values)
    n, tail, rank = len(ordered), 0.0, 0
    while rank < n // 2 and tail + math.comb(n, rank) / 2**n <= 0.025:
        tail += math.comb(n, rank) / 2**n
        rank += 1
    cut = max(rank - 1, 0)
    return ordered[cut], ordered[n - 1 - cut]


def _time(function: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """CPU and clock seconds of one call, the mean of ``calls`` in a row."""
    # Worker threads of what ran before go on spinning for a moment; that is not this function's work.
    time.sleep(SETTLE_S)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def compare(ours: Callable[[], object], peer: Callable[[], object], pairs: int) -> Pairs:
    """Time two programs in turn, after one call of each that does not count; less often where a pair is long."""
    once = [_time(function)[1] for function in (ours, peer)]
    pairs = min(pairs, max(FEWEST, int(BUDGET_S / max(sum(once), 2 * SAMPLE_S))))
    calls = [max(1, math.ceil(SAMPLE_S / seconds)) for seconds in once]
    rounds = [(_time(ours, calls[0]), _time(peer, calls[1])) for _ in range(pairs)]
    speedups = [theirs[0] / mine[0] for mine, theirs in rounds]
    low, high = median_interval(speedups)
    (ours_cpu, ours_wall), (peer_cpu, peer_wall) = (
        [median(side[which] for side in sides) for which in (0, 1)] for sides in zip(*rounds, strict=True)
    )
    return Pairs(pairs, ours_cpu, peer_cpu, ours_wall, peer_wall, median(speedups), low, high)


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def peak_growth(function: Callable[[], object]) -> int:
    """Bytes by which the resident size of this process peaked above its start during a call. Linux with glibc."""
    function()
    # Memory that an earlier call left with the allocator would hide what this one takes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def copy_bandwidth(size: int = 1 << 28) -> float:
    """Bytes read and written per second of the clock when copying memory that no cache holds, on one thread."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return 2 * size / min(_time(lambda: np.copyto(target, source))[1] for _ in range(7))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return {
        "cpu": next(line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "copy_bandwidth_gb_s": round(copy_bandwidth() / 1e9, 1),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush, the first to the left.

    Example:
        >>> print(table(["rule", "s"], [["mean", "1"], ["median", "12"]]))
        rule     s
        mean     1
        median  12
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    )


def write(out: Path, about: str, results: Sequence[dict[str, Any]]) -> None:
    """The machine and the results as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "machine": machine(), "results": list(results)}, indent=1) + "\n")


def as_dict(pairs: Pairs) -> dict[str, Any]:
    """Rounded to what the clock can tell."""
    return {name: round(value, 6) for name, value in asdict(pairs).items()}
