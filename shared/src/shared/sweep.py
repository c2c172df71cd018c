"""Many runs of one command on a warm pool of worker processes, resumable cell by cell.

A finished cell is a row of a CSV file, keyed by its options, seed and code version; the file is the record from which
an interrupted sweep goes on, and what is committed beside a published table. The parent process imports neither torch
nor lightning; each worker imports them once.
"""

import csv
import fcntl
import gc
import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from shared.errors import RunError, UsageError

ATTEMPTS = 3
"""How often a cell may take its worker process down before the sweep gives up on it."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Args:
        key: What tells it from the others: column name to value, in the order of the table.
        words: The command line of the run.
        fingerprint: Hash of everything that decides the result; see :func:`fingerprint`.
    """

    key: Mapping[str, str]
    words: tuple[str, ...]
    fingerprint: str

    @property
    def label(self) -> str:
        """For progress and messages."""
        return " · ".join(self.key.values())


Row = dict[str, str]


def fingerprint(words: Sequence[str], configs: Sequence[Path], code: str) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a run's options, the content of its configs and the code version.

    The content is what YAML reads, so a new comment does not make a config another one.

    Example:
        >>> fingerprint(["--a", "1"], [], "0.1.0") == fingerprint(["--a", "2"], [], "0.1.0")
        False
    """
    content = json.dumps([list(words), [yaml.safe_load(path.read_text()) for path in configs], code])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def finished(record: Path) -> dict[str, Row]:
    """The rows of a record by fingerprint. A line cut short by a crash is left out, wherever it was cut."""
    return _read(record)[1]


def run_cells(
    cells: Sequence[Cell], work: str, record: Path, workers: int | None = None, check: str | None = None
) -> list[Row]:
    """Run what the record does not hold yet and return the rows of all cells, in their order.

    Args:
        cells: The cells; fingerprints are distinct.
        work: ``module:function`` that runs one cell in a worker: ``(words) -> {column: value}``.
        record: The CSV file.
        workers: Worker processes; by default one per core.
        check: ``module:function`` that a worker calls before the first run, with the words of enough cells to have
            seen each of their names: what it refuses ends the sweep before it begins.

    Raises:
        UsageError: There are no workers, or a cell is refused.
        RunError: Another process is at work on the record, cells failed (the others are recorded), or one keeps killing
            its worker.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    record.parent.mkdir(parents=True, exist_ok=True)
    with _alone(record):
        return _run_cells(cells, work, record, workers, check)


@contextmanager
def _alone(record: Path) -> Iterator[None]:
    """Keep others from the record. The system takes the lock from whoever dies; the empty file beside it stays."""
    with record.with_name(record.name + ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{record} is being written by another process: wait for it or choose another folder"
            ) from None
        yield


def _run_cells(cells: Sequence[Cell], work: str, record: Path, workers: int | None, check: str | None) -> list[Row]:
    columns, known = _read(record)
    todo = [cell for cell in cells if cell.fingerprint not in known]
    if columns:
        _rewrite(record, list(known.values()), columns)
    else:
        record.unlink(missing_ok=True)
    failures: list[str] = []
    if todo:
        with tqdm(
            total=len(cells), initial=len(cells) - len(todo), unit="run", desc="runs", file=sys.stderr, leave=False
        ) as bar:
            for cell, result in _results(todo, work, workers or default_workers(len(todo)), check):
                bar.set_postfix_str(cell.label)
                bar.update(1)
                if isinstance(result, str):
                    failures.append(f"{cell.label}: {result}")
                else:
                    known[cell.fingerprint] = _append(record, cell, result)
    if failures:
        raise RunError(f"{len(failures)} of {len(cells)} runs failed: {'; '.join(failures)}")
    return [known[cell.fingerprint] for cell in cells]


def default_workers(cells: int) -> int:
    """One worker per core, no more than there are cells; each holds the libraries, about 1 GB, so at most 16."""
    return max(1, min(cells, os.cpu_count() or 1, 16))


def _results(
    cells: Sequence[Cell], work: str, workers: int, check: str | None
) -> Iterator[tuple[Cell, dict[str, str] | str]]:
    """Yield each cell with its values, or with what went wrong, as they come; survives killed workers.

    When a worker dies, all workers end, and nobody knows whose cell it was: those that were at work go on alone, one
    after the other, so that a cell that kills its worker takes no other down with it.
    """
    waiting, attempts = list(cells), dict.fromkeys((cell.fingerprint for cell in cells), 0)
    threads = max(1, (os.cpu_count() or 1) // workers)
    while waiting:
        suspects = [cell for cell in waiting if attempts[cell.fingerprint]]
        batch, crew = (suspects, 1) if suspects else (waiting, workers)
        pool = ProcessPoolExecutor(crew, get_context("spawn"), _warm_up, (work, threads))
        done: set[str] = set()
        started: dict[Future[dict[str, str]], Cell] = {}
        checking: Future[None] | None = None
        try:
            if check is not None:
                looked_at = [(cell.label, cell.words) for cell in _with_every_name(cells)]
                checking, check = pool.submit(_check, check, looked_at), None
                checking.result()
            queue = iter(batch)
            # No more cells than workers are handed out, so that when a worker dies we know who was at work.
            for cell in queue:
                started[pool.submit(_work, work, cell.words)] = cell
                if len(started) == crew:
                    break
            while started:
                ready, _ = wait(started, return_when=FIRST_COMPLETED)
                for future in ready:
                    cell = started.pop(future)
                    try:
                        result: dict[str, str] | str = future.result()
                    except BrokenProcessPool:
                        started[future] = cell
                        raise
                    except (UsageError, RunError) as error:
                        result = str(error)
                    done.add(cell.fingerprint)
                    yield cell, result
                    following = next(queue, None)
                    if following is not None:
                        started[pool.submit(_work, work, following.words)] = following
        except BrokenProcessPool:
            for cell in started.values():
                attempts[cell.fingerprint] += 1
                if attempts[cell.fingerprint] == ATTEMPTS:
                    done.add(cell.fingerprint)
                    yield cell, f"its worker process died {ATTEMPTS} times"
        finally:
            # At work still: ended before the pool is, which would wait for them and complain when Python exits.
            # Idle: left to end by themselves, for who is ended leaves its semaphores (a progress bar's lock) behind.
            at_work = started or (checking is not None and not checking.done())
            for process in list((pool._processes or {}).values()) if at_work else ():
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        waiting = [cell for cell in waiting if cell.fingerprint not in done]


def _warm_up(work: str, threads: int) -> None:
    """First thing in a worker: leave interruptions to the parent and end with it, import the work, share the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when it is imported
    _function(work)


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would wait for its next word forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(work: str, words: tuple[str, ...]) -> dict[str, str]:
    began = time.perf_counter()
    values = _function(work)(words)
    gc.collect()  # a finished run is full of cycles, and few objects hold much memory
    return {**values, "seconds": f"{time.perf_counter() - began:.1f}"}


def _with_every_name(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells in which a value of the key occurs for the first time: few of a grid, and all of its names."""
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        if not seen.issuperset(cell.key.items()):
            seen.update(cell.key.items())
            yield cell


def _check(check: str, cells: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    for label, words in cells:
        try:
            _function(check)(words)
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from None


def _function(path: str) -> Callable[[Sequence[str]], Any]:
    module, name = path.split(":")
    return getattr(import_module(module), name)


def _append(record: Path, cell: Cell, values: Mapping[str, str]) -> Row:
    """Add one row and wait until it is on the disk."""
    row = {**cell.key, **values, "fingerprint": cell.fingerprint}
    columns, rows = _read(record)
    if columns and set(row) - set(columns):
        columns += [name for name in row if name not in columns]
        _rewrite(record, list(rows.values()), columns)
    with record.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns or list(row), restval="", lineterminator="\n")
        if not columns:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())
    return row


def _read(record: Path) -> tuple[list[str], dict[str, Row]]:
    """Columns and whole rows of a record; nothing where there is none or not even its head is whole."""
    if not record.exists():
        return [], {}
    with record.open(newline="") as file:
        whole, end, _ = file.read().rpartition("\n")
    reader = csv.DictReader(io.StringIO(whole + end, newline=""))
    rows = [row for row in reader if None not in row and None not in row.values()]
    return list(reader.fieldnames or []), {row["fingerprint"]: row for row in rows}


def _rewrite(record: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write the whole rows alone: a line cut short must not swallow the next one. New columns are empty in them."""
    temporary = record.with_name(record.name + ".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(record)
