"""The steps of the check on a GPU: what they read and record, and that one that fails stops no other."""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
MARK = "@pytest.mark." + "gpu"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("gpu_check")


def test_numbers_of_tests_are_those_of_pytest(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_all.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_fails(n): assert n == 0\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError\n"
        "def test_error(broken): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "report.xml", "."]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    counts = check.test_counts((tmp_path / "report.xml").read_text())
    assert counts == {"passed": 1, "failed": 3, "skipped": 1}


def test_only_files_with_the_mark_are_collected(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_a.py").write_text(f"{MARK}\ndef test(): ...\n")
    (tmp_path / "test_b.py").write_text("def test(): ...\n")
    assert check.marked_files(tmp_path) == [tmp_path / "deep" / "test_a.py"]
    assert Path(REPOSITORY / "tests" / "fedseca" / "test_bench.py") in check.marked_files(REPOSITORY / "tests")


def run_record(value: float, **change: Any) -> dict[str, Any]:
    names = ("val/dice", "train/loss", "test/macro_f1", "val/fused/t2i_r1")
    record = {"metrics": dict.fromkeys(names, value), "data": {"provenance": "synthetic"}}
    return record | {"model": {"pretrained": "self"}, "device": "a GPU", "peak_gpu_bytes": 123_456_789} | change


class Machine:
    """A runner that writes what the steps would, as told by step."""

    def __init__(self, bench: Path, out: Path, **told: Any) -> None:
        self.build, self.out, self.told = bench, out, told
        self.commands: dict[str, list[str]] = {}

    def __call__(self, command: Sequence[str], log: Path) -> int:
        name = log.stem
        self.commands[name] = list(command)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(f"{name} {line}\n" for line in range(40)))
        told = self.told.get(name.replace("-", "_"), {})
        if isinstance(told, int):
            return told
        if name == "tests":
            counts = {"tests": 9, "failures": 0, "errors": 0, "skipped": 2} | told
            attributes = " ".join(f'{key}="{value}"' for key, value in counts.items())
            (log.parent / "tests.xml").write_text(f"<testsuites><testsuite {attributes} /></testsuites>")
        elif "-" in name:
            run = self.build / "gpu-runs" / name.replace("-", "/") / "version_0"
            run.mkdir(parents=True)
            for file in ("results.json", "results_test.json"):
                (run / file).write_text(json.dumps(run_record(0.5) | told))
        else:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"gpu-{name}.json").write_text("{}")
        return 0


def steps(check: ModuleType, tmp_path: Path, **told: Any) -> tuple[Machine, dict[str, Any], list[Any]]:
    build, out = tmp_path / "build", tmp_path / "out"
    machine = Machine(build, out, **told)
    bench = check.Bench(build / "gpu-venv" / "bin" / "python", build, out, machine)
    outcomes = check.run_steps(bench, {"gpu": "a GPU"}, check.STEPS)
    return machine, json.loads((out / "gpu-check.json").read_text()), outcomes


def test_every_step_is_recorded(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine, record, outcomes = steps(check, tmp_path)
    assert list(machine.commands) == list(check.STEPS)
    assert not any(outcome.error for outcome in outcomes)
    assert (record["failed"], record["not_run"], record["complete"]) == ([], [], True)
    assert record["machine"] == {"gpu": "a GPU"}
    assert {key: record["tests"][key] for key in ("passed", "failed", "skipped")} == {
        "passed": 7,
        "failed": 0,
        "skipped": 2,
    }
    assert [job["name"] for job in record["jobs"]] == [
        *("fedsam-fit", "usssl-pretrain", "usssl-finetune", "finelip-fit", "fedseca-fit")
    ]
    job = record["jobs"][0]
    assert job.pop("seconds") >= 0
    assert job == {
        "name": "fedsam-fit",
        "command": "build/gpu-venv/bin/fedsam fit --run.root build/gpu-runs --trainer.accelerator gpu "
        "--trainer.precision bf16-mixed",
        "exit_status": 0,
        "error": "",
        "metric": "val/dice",
        "value": 0.5,
        "provenance": "synthetic",
        "pretrained": "self",
        "device": "a GPU",
        "peak_gpu_mb": 123.5,
    }
    assert [row["record"] for row in record["benchmarks"]] == [f"gpu-{name}.json" for name in check.BENCHMARKS]
    assert str(tmp_path) not in json.dumps(record)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/{len(check.STEPS)}] tests ..."
    assert lines[1].startswith("    passed in ")
    assert len(lines) == 2 * len(check.STEPS)


@pytest.mark.parametrize(
    ("told", "step", "error"),
    [
        ({"tests": {"failures": 1, "errors": 2}}, "tests", "3 failed"),
        ({"tests": {"skipped": 9}}, "tests", "no test passed"),
        ({"tests": 4}, "tests", "exit status 4"),
        ({"fedsam_fit": 1}, "fedsam-fit", "exit status 1"),
        ({"fedseca_fit": {"metrics": {}}}, "fedseca-fit", "results.json lacks the headline: KeyError 'test/macro_f1'"),
        ({"usssl_pretrain": run_record(float("nan"))}, "usssl-pretrain", "train/loss is nan"),
        ({"finelip_fit": {"device": "cpu"}}, "finelip-fit", "the run was on the CPU"),
        ({"clim": 1}, "clim", "exit status 1"),
    ],
)
def test_a_failing_step_stops_no_other_and_is_named(
    check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: Any, step: str, error: str
) -> None:
    machine, record, _ = steps(check, tmp_path, **told)
    assert list(machine.commands) == list(check.STEPS)
    assert record["complete"]
    assert record["failed"] == [step]
    rows = [record["tests"], *record["jobs"], *record["benchmarks"]]
    assert {row["name"]: row["error"] for row in rows if row["error"]} == {step: error}
    printed = capsys.readouterr().out
    assert f"FAILED ({error})" in printed
    assert f"    {step} 39\n" in printed
    assert f"    {step} 24\n" not in printed


def test_the_record_of_an_unfinished_check_says_so(check: ModuleType) -> None:
    outcomes = [check.Outcome("tests", "pytest", 0, 1.0, "", {"passed": 1, "failed": 0, "skipped": 0})]
    record = check.summary({}, outcomes, check.STEPS)
    assert not record["complete"]
    assert record["not_run"] == list(check.STEPS[1:])
    some = check.summary({}, outcomes, ["tests"])
    assert some["complete"]
    assert some["jobs"] == []


def test_stale_runs_and_records_are_never_read(check: ModuleType, tmp_path: Path) -> None:
    build, out = tmp_path / "build", tmp_path / "out"
    steps(check, tmp_path)
    bench = check.Bench(build / "gpu-venv" / "bin" / "python", build, out, lambda command, log: 0)
    assert bench.step("tests").error == "pytest wrote no report"
    assert bench.step("fedsam-fit").error.startswith("results.json lacks the headline: FileNotFoundError")
    assert bench.step("clim").error == "it wrote no record"


def test_a_quick_check_shortens_what_it_can(check: ModuleType, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "build", tmp_path / "out")
    bench = check.Bench(Path("python"), tmp_path / "build", tmp_path / "out", machine, quick=True)
    assert machine.commands == {}
    bench.step("usssl-pretrain")
    bench.step("clients")
    assert machine.commands["usssl-pretrain"][-2:] == ["--trainer.max_epochs", "3"]
    assert machine.commands["clients"][-1] == "--quick"
    assert check.options(["--quick"]).out == REPOSITORY / "build" / "benchmarks"
    assert check.options([]).out == REPOSITORY / "benchmarks" / "results"


def test_every_benchmark_takes_the_option_that_it_is_given(check: ModuleType) -> None:
    for name, words in check.BENCHMARKS.items():
        assert f'"{words[0]}"' in (REPOSITORY / "benchmarks" / f"{name}.py").read_text()
