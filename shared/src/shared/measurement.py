"""Time, memory and bandwidth of a function call, and what the numbers were measured on."""

import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

SETTLE_S = 0.02


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics between which the median lies with 95 % confidence (all values where there are too few).

    It assumes nothing about how the values are distributed.

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


def synchronise() -> None:
    """Wait until GPUs have done what they were told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_and_wall(function: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """Seconds of CPU (this process, all threads) and of the clock that one call takes: the mean of ``calls``."""
    # Worker threads of what ran before go on spinning for a moment; that is not this function's work.
    time.sleep(SETTLE_S)
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    synchronise()
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def can_measure_peak(device: str = "cpu") -> bool:
    """Whether :func:`peak_growth` works here: on GPUs, and on Linux with glibc."""
    return device != "cpu" or (sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK))


def peak_growth(function: Callable[[], object], device: str = "cpu") -> int:
    """Bytes by which memory in use peaked above its start during a call.

    On the CPU it is the resident size of this process, on a GPU what torch has handed out.
    """
    function()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start
    reset_resident_peak()
    before = _resident("VmRSS")
    function()
    return resident_peak() - before


def reset_resident_peak() -> None:
    """Begin anew with :func:`resident_peak`, where :func:`can_measure_peak` on the CPU."""
    # Memory that an earlier call left with the allocator would hide what comes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """The most bytes that this process, libraries included, had in memory at once since the last reset."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def copy_bandwidth(size: int = 1 << 28, device: str = "cpu") -> float:
    """Bytes read and written per second of the clock when copying memory that no cache holds; one thread on a CPU."""
    if device != "cpu":
        here = torch.ones(size, dtype=torch.uint8, device=device)
        there = torch.zeros_like(here)
        return 2 * size / min(cpu_and_wall(lambda: there.copy_(here))[1] for _ in range(7))
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return 2 * size / min(cpu_and_wall(lambda: np.copyto(target, source))[1] for _ in range(7))


def processor() -> str:
    """Model name of the CPU."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that does not say
        return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "copy_bandwidth_gb_s": round(copy_bandwidth() / 1e9, 1),
    }
