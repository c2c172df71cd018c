"""A real sweep process that is killed again and again ends with the results of one that was left alone.

Once with work that takes a moment, many times over; once, among the slow tests, as ``fedseca sweep`` itself.
"""

import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

LIGHT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from shared.sweep import Cell, fingerprint, run_cells

    def work(words):
        folder = Path(words[0], "cells", "fedseca", words[1])
        (folder / f"version_{len(list(folder.glob('*')))}").mkdir(parents=True)
        time.sleep(0.3)
        return {"value": f"{words[1]}, twice {words[1]}"}

    if __name__ == "__main__":
        out = sys.argv[1]
        cells = [Cell({"name": name}, (out, name), fingerprint([name], [], "1")) for name in "abcdefghijkl"]
        run_cells(cells, "light_sweep:work", Path(out, "results.csv"), workers=2)
    """
)
"""A sweep without libraries to import; like training, each run begins with a numbered folder."""

# Rules with an option and with a memory, a clean run, two workers.
GRID = ["--rules", '[FedAvg, "FedSECA:gamma=0.5"]', "--attacks", "[NoAttack, SignFlip]", "--seeds", "[1]"]
SMALL = [
    *("--rounds", "2", "--workers", "2", "--", "--model.network.width", "2", "--data.fraction", "0.1"),
    *("--data.batch_size", "16", "--trainer.accelerator", "cpu"),
]
PATIENCE = 900.0
"""Seconds after which something that should happen will not: no measure of speed."""


def process_state(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, or nothing if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def children(pid: int) -> list[int]:
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [child for child in found if (state := process_state(child)) is not None and state[1] == pid]


def workers(pid: int) -> list[int]:
    """The children that train; the other one looks after shared resources."""
    return [child for child in children(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def alive(pid: int) -> bool:
    state = process_state(pid)
    return state is not None and state[0] != "Z"


def wait_for(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


class Sweep:
    """One sweep in a folder, started as often as needed."""

    def __init__(self, folder: Path, before: list[str], after: list[str]) -> None:
        self.folder = folder
        self.record = folder / "results.csv"
        self.log = folder.with_suffix(".log")
        self.command = [*before, str(folder), *after]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL for the sweep alone; whoever worked for it must notice."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        family = children(self.pid)
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not any(map(alive, family)), "the end of all workers of a killed sweep")

    def kill_a_worker(self) -> None:
        os.kill(workers(self.pid)[0], signal.SIGKILL)

    def finish(self) -> None:
        assert self.process is not None
        family = children(self.pid)
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        wait_for(lambda: not any(map(alive, family)), "the end of all workers of a finished sweep")

    def rows(self) -> list[str]:
        """Whole lines of the record, without its head."""
        return self.record.read_text().rpartition("\n")[0].splitlines()[1:] if self.record.exists() else []

    def tear(self) -> None:
        """Cut the last line of the record in the middle, as a machine that stops may do."""
        text = self.record.read_text()
        assert text.endswith("\n")
        self.record.write_text(text[: -len(self.rows()[-1]) // 2])

    def runs(self) -> Counter[str]:
        """How often the run of each cell was begun: every beginning has a folder."""
        return Counter(path.parent.name for path in self.folder.glob("cells/fedseca/*/version_*"))

    def results(self) -> list[dict[str, str]]:
        """What does not depend on the machine and its mood."""
        costs = {"seconds", "server_seconds_per_round", "peak_resident_mb"}
        with self.record.open(newline="") as file:
            rows = [{name: value for name, value in row.items() if name not in costs} for row in csv.DictReader(file)]
        return sorted(rows, key=lambda row: row["fingerprint"])


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Callable[[list[str], list[str]], list[Sweep]]]:
    """Two sweeps of one command, in folders of their own."""
    made: list[Sweep] = []

    def make(before: list[str], after: list[str]) -> list[Sweep]:
        made.extend(Sweep(tmp_path / name, before, after) for name in ("whole", "killed"))
        return made

    yield make
    for sweep in made:
        if sweep.process is not None and sweep.process.poll() is None:
            sweep.process.kill()
            sweep.process.wait()


def name_of(row: str) -> str:
    """The name of the run whose row this is."""
    (cells,) = csv.reader([row])
    if len(cells) < 8:
        return cells[0]
    partition, rule, attack, seed = cells[:4]
    return f"{rule}-{attack}-{seed}-{partition}".replace(":", "-")


def check_killed_ends_like_whole(whole: Sweep, killed: Sweep, cells: int, times: int) -> None:
    """Kill a sweep at every kind of moment, as often as told, and compare it with one that nobody disturbs."""
    whole.start()
    whole.finish()
    assert len(whole.results()) == cells
    assert len(whole.runs()) == cells
    assert set(whole.runs().values()) == {1}

    frozen: Counter[str] = Counter()  # how often the runs were begun whose rows are safe
    kept: list[str] = []

    def remember() -> None:
        nonlocal kept
        assert killed.rows()[: len(kept)] == kept  # to the byte, their seconds too
        assert all(killed.runs()[name] == count for name, count in frozen.items())
        kept = killed.rows()
        frozen.update({name: killed.runs()[name] for name in map(name_of, kept) if name not in frozen})

    for _ in range(times):
        killed.start()  # and kill it while its workers still import
        wait_for(lambda: len(workers(killed.pid)) == 2, "the start of two workers")
        killed.kill()
        remember()

        killed.start()  # and kill it while a worker trains
        begun = killed.runs()
        wait_for(lambda begun=begun: killed.runs() != begun, "the beginning of a run")
        killed.kill()
        remember()

        killed.start()  # and kill it between two rows
        before = len(kept)
        wait_for(lambda before=before: len(killed.rows()) > before, "a finished run")
        killed.kill()
        killed.tear()  # this last row is lost, and its run alone may be repeated
        remember()

    killed.start()  # and kill a worker alone: the sweep goes on without being started again
    begun = killed.runs()
    wait_for(lambda: killed.runs() != begun, "the beginning of another run")
    killed.kill_a_worker()
    killed.finish()
    remember()
    assert len(kept) == cells
    assert killed.results() == whole.results()

    record, begun = killed.record.read_text(), killed.runs()
    killed.start()  # with everything finished: no run is begun, no row touched
    killed.finish()
    assert killed.record.read_text() == record
    assert killed.runs() == begun


def test_a_killed_sweep_ends_like_one_left_alone(
    tmp_path: Path, sweeps: Callable[[list[str], list[str]], list[Sweep]]
) -> None:
    (tmp_path / "light_sweep.py").write_text(LIGHT)
    whole, killed = sweeps([sys.executable, str(tmp_path / "light_sweep.py")], [])
    check_killed_ends_like_whole(whole, killed, cells=12, times=3)


@pytest.mark.slow
def test_a_killed_fedseca_sweep_ends_like_one_left_alone(
    sweeps: Callable[[list[str], list[str]], list[Sweep]],
) -> None:
    command = str(Path(sys.executable).with_name("fedseca"))
    whole, killed = sweeps([command, "sweep", *GRID, "--out"], SMALL)
    check_killed_ends_like_whole(whole, killed, cells=4, times=1)
    for name in ("table.md", "command.txt"):
        ours, theirs = ((s.folder / name).read_text().replace(str(s.folder), "") for s in (whole, killed))
        assert ours == theirs
