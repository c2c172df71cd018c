"""The sweep: nothing finished is run twice, nothing is lost, killed workers are replaced."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from shared.errors import RunError, UsageError
from shared.sweep import Cell, fingerprint, finished, run_cells

WORK = textwrap.dedent(
    """
    import multiprocessing, os, signal, time
    from pathlib import Path
    from shared.errors import UsageError

    def work(words):
        folder, name, fate = Path(words[0]), words[1], words[2]
        with (folder / "log").open("a") as file:
            file.write(name + "\\n")
        marker = folder / f"died-{name}"
        if fate == "dies always" or (fate == "dies once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "slow":
            time.sleep(1)
        if fate == "waits":
            time.sleep(600)
        if fate == "locks":
            global lock
            lock = multiprocessing.RLock()
        if fate == "refuses":
            raise UsageError("wrong option")
        return {"value": str(len(name)), "threads": os.environ["OMP_NUM_THREADS"]}

    def check(words):
        folder, name, fate = Path(words[0]), words[1], words[2]
        with (folder / "checked").open("a") as file:
            file.write(name + "\\n")
        if fate == "wrong":
            raise UsageError("--rule must be one")
    """
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweep_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def cells(folder: Path, **fates: str) -> list[Cell]:
    return [
        Cell({"name": name}, (str(folder), name, fate), fingerprint([name], [], "1")) for name, fate in fates.items()
    ]


def log(folder: Path) -> list[str]:
    return sorted((folder / "log").read_text().split())


def test_finished_cells_are_not_run_again(folder: Path) -> None:
    record = folder / "results.csv"
    first = run_cells(cells(folder, a="", bb=""), "sweep_work:work", record, workers=2)
    again = run_cells(cells(folder, bb="", ccc="", a=""), "sweep_work:work", record, workers=2)
    assert [row["value"] for row in first] == ["1", "2"]
    assert [(row["name"], row["value"]) for row in again] == [("bb", "2"), ("ccc", "3"), ("a", "1")]
    assert log(folder) == ["a", "bb", "ccc"]
    assert {row["threads"] for row in again} == {str(max(1, (os.cpu_count() or 1) // 2))}


def test_a_line_cut_short_is_run_again(folder: Path) -> None:
    record = folder / "results.csv"
    run_cells(cells(folder, a="", bb=""), "sweep_work:work", record, workers=1)
    record.write_text(record.read_text()[:-20])
    assert len(finished(record)) == 1
    run_cells(cells(folder, a="", bb=""), "sweep_work:work", record, workers=1)
    assert len(finished(record)) == 2
    assert len(log(folder)) == 3


@pytest.mark.parametrize("kept", [1, 2])
def test_a_record_cut_anywhere_loses_no_more_than_its_last_line(folder: Path, kept: int) -> None:
    """Also inside the last column, where what is left looks like a whole row, and before any row is whole."""
    record, both = folder / "results.csv", cells(folder, a="", bb="")
    run_cells(both[:kept], "sweep_work:work", record, workers=1)
    whole = record.read_text()
    for cut in range(len(whole)):
        record.write_text(whole[:cut])
        assert len(finished(record)) == max(whole[:cut].count("\n") - 1, 0)
    for cut in (1, 5, len(whole.splitlines()[-1]) + 2):  # the end of the line, the last column, the line before
        record.write_text(whole[:-cut])
        rows = run_cells(both, "sweep_work:work", record, workers=2)
        assert [row["value"] for row in rows] == ["1", "2"]
        text = record.read_text()
        assert sorted(row["name"] for row in finished(record).values()) == ["a", "bb"]
        assert (len(text.splitlines()), text[-1]) == (3, "\n")
        assert text.splitlines()[0] == whole.splitlines()[0]


def test_a_record_gains_columns(folder: Path) -> None:
    record = folder / "results.csv"
    run_cells(cells(folder, a=""), "sweep_work:work", record, workers=1)
    lines = [line.split(",") for line in record.read_text().splitlines()]
    del lines[0][1], lines[1][1]
    record.write_text("".join(",".join(line) + "\n" for line in lines))
    rows = run_cells(cells(folder, a="", bb=""), "sweep_work:work", record, workers=1)
    assert [row.get("value", "") for row in rows] == ["", "2"]
    assert [row["value"] for row in finished(record).values()] == ["", "2"]
    assert log(folder) == ["a", "bb"]


def test_a_killed_worker_costs_nothing(folder: Path) -> None:
    rows = run_cells(cells(folder, a="dies once", bb="", ccc=""), "sweep_work:work", folder / "results.csv", workers=2)
    assert [row["value"] for row in rows] == ["1", "2", "3"]
    assert log(folder).count("ccc") == 1


def test_a_cell_that_kills_its_worker_takes_no_other_down(folder: Path) -> None:
    record = folder / "results.csv"
    fates = {"a": "dies always", "bb": "slow", "ccc": "slow", "dddd": ""}
    with pytest.raises(RunError, match=r"^1 of 4 runs failed: a: its worker process died 3 times$"):
        run_cells(cells(folder, **fates), "sweep_work:work", record, workers=2)
    assert sorted(row["name"] for row in finished(record).values()) == ["bb", "ccc", "dddd"]
    assert {row["threads"] for row in finished(record).values()} == {str(max(1, (os.cpu_count() or 1) // 2))}
    assert log(folder).count("a") == 3
    assert log(folder).count("dddd") == 1


def test_failures_are_told_and_the_others_recorded(folder: Path) -> None:
    record = folder / "results.csv"
    with pytest.raises(RunError, match=r"2 of 3 runs failed: .*(bb: wrong option|a: its worker process died 3 times)"):
        run_cells(cells(folder, a="dies always", bb="refuses", ccc=""), "sweep_work:work", record, workers=1)
    assert [row["name"] for row in finished(record).values()] == ["ccc"]


def test_a_wrong_name_ends_a_sweep_before_its_first_run(folder: Path) -> None:
    grid = cells(folder, a="fine", b="wrong")
    with pytest.raises(UsageError, match=r"^b: --rule must be one$"):
        run_cells(grid, "sweep_work:work", folder / "results.csv", workers=1, check="sweep_work:check")
    assert not (folder / "log").exists()
    assert not (folder / "results.csv").exists()


def test_each_name_of_a_grid_is_looked_at_once(folder: Path) -> None:
    grid = [
        Cell({"rule": rule, "seed": seed}, (str(folder), rule + seed, "fine"), fingerprint([rule, seed], [], "1"))
        for rule in "ab"
        for seed in "12"
    ]
    run_cells(grid, "sweep_work:work", folder / "results.csv", workers=1, check="sweep_work:check")
    assert (folder / "checked").read_text().split() == ["a1", "a2", "b1"]
    assert log(folder) == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("workers", [0, -1])
def test_a_sweep_has_workers(workers: int, folder: Path) -> None:
    with pytest.raises(UsageError, match=f"--workers must be at least 1, got {workers}"):
        run_cells([], "sweep_work:work", folder / "results.csv", workers=workers)


def test_workers_leave_no_semaphore_behind(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from shared.sweep import Cell, run_cells\n"
        "folder = Path(sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    cells = [Cell({'name': n}, (str(folder), n, 'locks'), n) for n in 'ab']\n"
        "    run_cells(cells, 'sweep_work:work', folder / 'results.csv', workers=2)\n"
    )
    (folder / "sweep_script.py").write_text(script)
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, str(folder / "sweep_script.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "leaked" not in done.stderr, done.stderr


def test_of_two_sweeps_on_one_record_the_second_ends(folder: Path) -> None:
    record = folder / "results.csv"
    script = (
        "import sys; from pathlib import Path; from shared.sweep import Cell, run_cells; "
        "cell = Cell({'name': 'a'}, (sys.argv[1], 'a', 'waits'), 'f'); "
        "__name__ == '__main__' and run_cells([cell], 'sweep_work:work', Path(sys.argv[1], 'results.csv'), 1)"
    )
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    first = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=os.environ | {"PYTHONPATH": path})
    try:
        while not (folder / "log").exists():
            assert first.poll() is None
            time.sleep(0.02)
        with pytest.raises(RunError, match=r"^\S*results\.csv is being written by another process: wait for it or"):
            run_cells(cells(folder, bb=""), "sweep_work:work", record, workers=1)
        assert log(folder) == ["a"]
        assert not record.exists()
    finally:
        first.kill()
        first.wait()
    # Whoever dies leaves the lock.
    rows = run_cells(cells(folder, bb=""), "sweep_work:work", record, workers=1)
    assert [row["value"] for row in rows] == ["2"]
