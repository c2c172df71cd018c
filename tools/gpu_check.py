"""Check this repository on a machine with a GPU, beside the torch that is there; what `make gpu-check` runs.

The interpreter that runs this script must have torch 2.11 or newer and torchvision for its GPU. An environment on top
of it, BUILD/gpu-venv, gets what is missing; torch is never replaced. Then run, each as a step of its own: the tests
marked gpu, the default jobs of the packages in bf16-mixed, and the benchmarks that measure on a GPU.

OUT/gpu-check.json is written after every step, OUT/gpu-BENCHMARK.json by each benchmark; what the steps print goes to
BUILD/gpu-logs, the runs to BUILD/gpu-runs. The exit status is 0 if every step passed, 1 if one failed or the
environment could not be made, and 2 if the machine or an option will not do: then nothing was written.
"""

from __future__ import annotations  # an interpreter that is too old must get as far as its refusal

import argparse
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_environment import (
    ROOT,
    EnvironmentRefused,
    Runner,
    described,
    driver,
    make_environment,
    probe,
    refusal,
    tail,
    to_log,
)

PRECISION = ("--trainer.accelerator", "gpu", "--trainer.precision", "bf16-mixed")
QUICK = ("--trainer.max_epochs", "3")


@dataclass(frozen=True)
class Job:
    """A command of a package with its defaults.

    Attributes:
        metric: The number in ``record`` that tells how the run went.
        record: The file in the run folder.
    """

    package: str
    verb: str
    metric: str
    record: str = "results.json"

    @property
    def name(self) -> str:
        return f"{self.package}-{self.verb}"


JOBS = (
    Job("fedsam", "fit", "val/dice"),
    Job("usssl", "pretrain", "train/loss"),
    Job("usssl", "finetune", "test/macro_f1", "results_test.json"),
    Job("finelip", "fit", "val/fused/t2i_r1"),
    Job("fedseca", "fit", "test/macro_f1"),
)
BENCHMARKS = {
    "clim": ("--device", "cuda"),
    "aggregators": ("--device", "cuda"),
    "ssl_step": ("--device", "cuda"),
    "sam_step": ("--device", "cuda"),
    "clients": ("--accelerator", "gpu"),
}
"""Scripts that can measure on a GPU, and how they are told to."""
STEPS = ("tests", *(job.name for job in JOBS), *BENCHMARKS)


@dataclass
class Outcome:
    """How a step went; ``error`` is empty if nothing is wrong with it, ``found`` what it is about."""

    name: str
    command: str
    exit_status: int
    seconds: float
    error: str = ""
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Where the steps run and write."""

    python: Path
    build: Path
    out: Path
    run: Runner
    quick: bool = False

    def timed(self, name: str, command: Sequence[str]) -> Outcome:
        """Run the command of a step; its record names no folder of the machine."""
        start = time.perf_counter()
        status = self.run(command, self.build / "gpu-logs" / f"{name}.log")
        seconds = round(time.perf_counter() - start, 1)
        shown = shlex.join(command)
        for folder, short in ((ROOT, ""), (self.build, "build/"), (self.out, "OUT/")):
            shown = shown.replace(f"{folder}/", short)
        return Outcome(name, shown, status, seconds, f"exit status {status}" if status else "")

    def tests(self) -> Outcome:
        """The tests marked ``gpu``."""
        report = self.build / "gpu-logs" / "tests.xml"
        report.unlink(missing_ok=True)
        files = [str(file.relative_to(ROOT)) for file in marked_files(ROOT / "tests")]
        options = ["-m", "gpu", "--junitxml", str(report)]
        outcome = self.timed("tests", [str(self.python), "-m", "pytest", *options, *files])
        try:
            outcome.found = test_counts(report.read_text(encoding="utf-8"))
        except (OSError, ElementTree.ParseError):
            outcome.error = outcome.error or "pytest wrote no report"
        else:
            if failed := outcome.found["failed"]:
                outcome.error = f"{failed} failed"
            elif not outcome.found["passed"]:
                outcome.error = outcome.error or "no test passed"
        return outcome

    def job(self, job: Job) -> Outcome:
        """A default job on the GPU in bf16."""
        runs = self.build / "gpu-runs"
        run = runs / job.package / job.verb
        shutil.rmtree(run, ignore_errors=True)
        command = [str(self.python.parent / job.package), job.verb, "--run.root", str(runs), *PRECISION]
        outcome = self.timed(job.name, [*command, *(QUICK if self.quick else ())])
        if outcome.error:
            return outcome
        try:
            record = json.loads((run / "version_0" / job.record).read_text(encoding="utf-8"))
            outcome.found = headline(record, job.metric)
        except (OSError, ValueError, KeyError) as error:
            outcome.error = f"{job.record} lacks the headline: {type(error).__name__} {error}"
            return outcome
        if not math.isfinite(outcome.found["value"]):
            outcome.error = f"{job.metric} is {outcome.found['value']}"
            outcome.found["value"] = None  # JSON has no such number
        elif outcome.found["device"] == "cpu":
            outcome.error = "the run was on the CPU"
        return outcome

    def benchmark(self, name: str) -> Outcome:
        """A benchmark on the GPU."""
        record = self.out / f"gpu-{name}.json"
        record.unlink(missing_ok=True)
        command = [str(self.python), f"benchmarks/{name}.py", *BENCHMARKS[name], "--out", str(record)]
        outcome = self.timed(name, [*command, *(["--quick"] if self.quick else [])])
        if not outcome.error:
            outcome.found = {"record": record.name} if record.exists() else {}
            outcome.error = "" if record.exists() else "it wrote no record"
        return outcome

    def step(self, name: str) -> Outcome:
        """The step of a name."""
        jobs = {job.name: job for job in JOBS}
        if name == "tests":
            return self.tests()
        return self.job(jobs[name]) if name in jobs else self.benchmark(name)


def marked_files(tests: Path) -> list[Path]:
    """The files with tests marked ``gpu``: others may import what is not installed."""
    return sorted(file for file in tests.rglob("test_*.py") if "@pytest.mark.gpu" in file.read_text(encoding="utf-8"))


def test_counts(junit: str) -> dict[str, int]:
    """Numbers of tests passed, failed (errors among them) and skipped, from pytest's JUnit XML."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.fromstring(junit).iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    failed = counts["failures"] + counts["errors"]
    return {"passed": counts["tests"] - failed - counts["skipped"], "failed": failed, "skipped": counts["skipped"]}


def headline(record: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A run's number, what its data and weights are, where it ran, and how much memory of the GPU it took at most.

    Raises:
        KeyError: The record lacks one of them; a run on the CPU has no peak.
    """
    told = {
        "metric": metric,
        "value": float(record["metrics"][metric]),
        "provenance": record["data"]["provenance"],
        "pretrained": record["model"]["pretrained"],
        "device": record["device"],
    }
    return told if record["device"] == "cpu" else told | {"peak_gpu_mb": round(record["peak_gpu_bytes"] / 1e6, 1)}


def summary(machine: Mapping[str, Any], outcomes: Sequence[Outcome], chosen: Sequence[str]) -> dict[str, Any]:
    """What ``gpu-check.json`` holds: machine, tests, jobs, benchmarks, what failed, and what has not run."""

    def of(names: Sequence[str]) -> list[dict[str, Any]]:
        rows = [asdict(outcome) for outcome in outcomes if outcome.name in names]
        return [{name: row[name] for name in row if name != "found"} | row["found"] for row in rows]

    ran = [outcome.name for outcome in outcomes]
    return {
        "about": "tests, default jobs in bf16-mixed and benchmarks on a GPU",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": dict(machine),
        "tests": next(iter(of(["tests"])), None),
        "jobs": of([job.name for job in JOBS]),
        "benchmarks": of(list(BENCHMARKS)),
        "failed": [outcome.name for outcome in outcomes if outcome.error],
        "not_run": [name for name in STEPS if name not in ran],
        "complete": all(name in ran for name in chosen),
    }


def write(file: Path, content: Mapping[str, Any]) -> None:
    """JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def run_steps(bench: Bench, machine: Mapping[str, Any], chosen: Sequence[str]) -> list[Outcome]:
    """Run the steps one after the other, whatever becomes of each; write the record after every one."""
    outcomes: list[Outcome] = []
    for number, name in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {name} ...", flush=True)
        outcome = bench.step(name)
        outcomes.append(outcome)
        write(bench.out / "gpu-check.json", summary(machine, outcomes, chosen))
        told = ", ".join(f"{key} {value}" for key, value in outcome.found.items())
        how = f"FAILED ({outcome.error})" if outcome.error else "passed"
        print(f"    {how} in {outcome.seconds} s{told and f': {told}'}", flush=True)
        if outcome.error:
            print(tail(bench.build / "gpu-logs" / f"{name}.log"), end="", flush=True)
    return outcomes


def options(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from; nothing is downloaded then")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=f"some of: {', '.join(STEPS)}")
    parser.add_argument("--quick", action="store_true", help="3 epochs a job, smoke runs of the benchmarks")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="for environment, runs and logs (build)")
    parser.add_argument(
        "--out", type=Path, help="folder of the records (benchmarks/results, with --quick build/benchmarks)"
    )
    chosen = parser.parse_args(words)
    if chosen.wheels and not any(chosen.wheels.glob("*.whl")):
        parser.exit(2, f"--wheels must be a folder that holds wheels, got {chosen.wheels}\n")
    chosen.out = chosen.out or (chosen.build / "benchmarks" if chosen.quick else ROOT / "benchmarks" / "results")
    return chosen


def main() -> int:
    """Check the machine, make the environment, run the steps."""
    chosen = options(sys.argv[1:])
    build, out, wheels = (path and path.resolve() for path in (chosen.build, chosen.out, chosen.wheels))
    try:
        found = probe(sys.executable)
        no = refusal(found)
    except EnvironmentRefused as error:
        no = str(error)
    if no:
        print(no, file=sys.stderr)
        return 2
    print(f"{found['gpu']}, torch {found['torch']}, Python {found['python']}")
    print(f"making {build / 'gpu-venv'} ...", flush=True)
    start = time.perf_counter()
    try:
        python = make_environment(build / "gpu-venv", sys.executable, found, wheels, to_log)
    except EnvironmentRefused as error:
        print(error, file=sys.stderr)
        return 1
    print(f"    made in {time.perf_counter() - start:.1f} s", flush=True)
    steps = [name for name in STEPS if name in (chosen.only or STEPS)]
    outcomes = run_steps(Bench(python, build, out, to_log, chosen.quick), described(probe(python), driver()), steps)
    failed = [outcome.name for outcome in outcomes if outcome.error]
    passed = f"{len(outcomes) - len(failed)} of {len(outcomes)} steps passed"
    print(f"{passed}, failed: {', '.join(failed)}" if failed else passed)
    print(out / "gpu-check.json")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
