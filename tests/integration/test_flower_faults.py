"""Clients that fail in every way there is, and a server that is killed, over processes of Ray."""

import csv
import html
import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fedseca.training import run as fedseca
from shared.federated.client_work import ClientWork, Failed
from shared.federated.rounds import participants_of_round

SCRIPT = Path(__file__).with_name("flower_sabotage.py")
sabotage = runpy.run_path(str(SCRIPT))
ANSWERS: dict[tuple[int, int], Callable[..., Any]] = sabotage["ANSWERS"]
DEATHS: dict[tuple[int, int], Callable[..., Any]] = sabotage["DEATHS"]
ROUNDS = 4
ALL_FAIL = 3
"""The round in which every client raises."""
LEFT_OUT = {place: fault for place, fault in ANSWERS.items() if place[0] != ALL_FAIL}
CLIENTS, SHARE, SEED = 9, 0.75, 73
WORDS = [
    *("--model.network.width", "2", "--data.fraction", "0.1", "--data.batch_size", "16"),
    *("--data.clients", str(CLIENTS), "--model.participation", str(SHARE), "--seed_everything", str(SEED)),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--checkpoint.save_top_k", "-1"),
]
"""The default, FedSECA under ALIE by the clients 3 and 4, with partial participation."""
FLOWER = ["--engine", "flower"]
TOLD = {
    "nan": "NaN or infinite values",
    "wrong_shape": r"tensor 'network\.head\.2\.bias' has shape \(2, 5\), not \(10,\)",
    "huge": r"payload of 16,\d{3},\d{3} bytes, [\d,]+ expected",
    "extra_key": "unexpected tensor 'stranger'",
    "zero_samples": "no training samples",
    "raises": "ValueError: no such slice",
}
MOMENTS = ["--model.client.keep_optimizer", "true"]
LONGEST = 300.0
"""Seconds after which what is waited for is taken to have failed."""
NEVER = ["--model.client.batched", "never"]
"""So that the clients in this process can be left out as well."""


def participants(round: int) -> list[int]:
    return participants_of_round(list(range(CLIENTS)), SHARE, SEED, round)


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {LONGEST:g} s"
        time.sleep(0.1)  # between two looks


@dataclass
class Runs:
    """Runs below ``root``; the environment of their processes tells them from all others."""

    root: Path

    def words(self, name: str, *words: str) -> list[str]:
        return ["fit", *WORDS, "--run.root", str(self.root), "--run.name", name, *words]

    def start(self, kind: str, name: str, *words: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"FLWR_HOME": str(self.root / "flwr"), "XDG_CACHE_HOME": str(self.root / "cache")}
        (self.root / "flwr").mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, *self.words(name, *FLOWER, *words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def alone(self, name: str, left_out: Collection[tuple[int, int]], *words: str) -> None:
        """A run in this process, without some clients in some rounds."""
        train = ClientWork.train_client

        def train_client(module: ClientWork, round: int, client: int, *rest: Any) -> Any:
            if (round, client) in left_out:
                raise Failed("left out")
            return train(module, round, client, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ClientWork, "train_client", train_client)
            fedseca(self.words(name, *NEVER, *words))

    def folder(self, name: str) -> Path:
        return self.root / "fedseca" / name / "version_0"

    def weights(self, name: str, round: int) -> dict[str, torch.Tensor]:
        path = self.folder(name) / f"checkpoints/round={round:04d}.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]

    def rows(self, name: str, file: str) -> list[dict[str, str]]:
        with (self.folder(name) / file).open(newline="") as lines:
            return list(csv.DictReader(lines))

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("FLWR_HOME") == str(self.root / "flwr")
            except psutil.Error:
                continue
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit status and last line."""
    said, _ = process.communicate(timeout=LONGEST)
    return process.returncode, said.splitlines()[-1]


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("runs"))
    yield made
    for process in made.processes():
        process.kill()


@pytest.fixture(scope="module")
def faulty(runs: Runs) -> tuple[int, str]:
    """How the run with bad answers ends; beside it one in this process without them."""
    rounds = ("--trainer.max_epochs", str(ROUNDS))
    process = runs.start("answers", "faulty", *rounds)
    runs.alone("alone", LEFT_OUT, *rounds)
    return end_of(process)


def test_the_clients_that_fail_take_part() -> None:
    assert [(round, client) for round, client in LEFT_OUT if client not in participants(round)] == []
    assert {fault.__name__ for fault in LEFT_OUT.values()} == TOLD.keys()


def test_every_round_equals_that_of_one_process_without_the_failing_clients(
    runs: Runs, faulty: tuple[int, str]
) -> None:
    """In the first round nobody fails."""
    for round in range(ALL_FAIL):
        assert_same(runs.weights("faulty", round), runs.weights("alone", round))


def test_every_fault_is_named_and_its_upload_not_counted(runs: Runs, faulty: tuple[int, str]) -> None:
    rows = runs.rows("faulty", "rounds.csv")[:ALL_FAIL]
    assert [row["participants"] for row in rows] == [" ".join(map(str, participants(r))) for r in range(ALL_FAIL)]
    for round, row in enumerate(rows):
        wanted = [f"{client}: {TOLD[fault.__name__]}" for (r, client), fault in LEFT_OUT.items() if r == round]
        assert re.fullmatch("; ".join(wanted), row["failures"]), row["failures"]
    ledger = [row for row in runs.rows("faulty", "ledger.csv") if int(row["round"]) < ALL_FAIL]
    messages = {(row["direction"], int(row["round"]), int(row["client"])) for row in ledger}
    asked = {(round, client) for round in range(ALL_FAIL) for client in participants(round)}
    assert messages == {("down", *one) for one in asked} | {("up", *one) for one in asked - LEFT_OUT.keys()}


def test_when_all_fail_the_run_stops_and_can_go_on(runs: Runs, faulty: tuple[int, str]) -> None:
    """Here the other engine goes on; the page of the finished run still names who was left out before."""
    clients = participants(ALL_FAIL)
    told = "; ".join(f"client {client}: {TOLD['raises']}" for client in clients)
    assert faulty == (1, f"fedseca: round {ALL_FAIL} has 0 good uploads of {len(clients)}, needs 1 ({told})")
    assert not (runs.folder("faulty") / "results.json").exists()

    place = ("--run.root", str(runs.root), "--run.name", "faulty")
    fedseca(["fit", *place, "--ckpt_path", "last", "--engine", "in_process"])
    assert_same(runs.weights("faulty", ROUNDS - 1), runs.weights("alone", ROUNDS - 1))
    record = json.loads((runs.folder("faulty") / "results.json").read_text())
    assert record["model"]["left_out"] == {str(client): 1 for client in sorted(client for _, client in LEFT_OUT)}
    page = html.unescape((runs.folder("faulty") / "report.html").read_text())
    for (round, client), fault in LEFT_OUT.items():
        cells = rf'<td class="number">{round}</td><td class="number">{client}</td><td>{TOLD[fault.__name__]}</td>'
        assert re.search(cells, page), cells


def test_no_process_is_left(runs: Runs, faulty: tuple[int, str]) -> None:
    wait_until(lambda: not runs.processes(), "the end of Ray's processes")


@pytest.mark.slow
def test_a_client_whose_process_dies_costs_nobody_else_the_round(runs: Runs) -> None:
    """It has a second try: one that dies again is left out, one that lives has lost nothing."""
    rounds = ("--trainer.max_epochs", "2")
    process = runs.start("deaths", "deaths", *rounds)
    runs.alone("deaths alone", {(0, 3)}, *rounds)
    status, said = end_of(process)
    assert status == 0, said
    first, second = (row["failures"] for row in runs.rows("deaths", "rounds.csv"))
    assert re.fullmatch(r"3: no answer: [^;]*[Aa]ctor[^;]*", first), first
    assert second == ""
    for round in range(2):
        assert_same(runs.weights("deaths", round), runs.weights("deaths alone", round))


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_behind_and_goes_on(runs: Runs) -> None:
    rounds = ("--trainer.max_epochs", "12", *MOMENTS)
    server = runs.start("none", "server", *rounds)
    wait_until(lambda: (runs.folder("server") / "checkpoints/round=0001.ckpt").exists(), "two rounds")
    server.kill()
    server.communicate(timeout=LONGEST)
    assert len(list((runs.folder("server") / "checkpoints").glob("round=*.ckpt"))) < 12
    wait_until(lambda: not runs.processes(), "the end of Ray's processes")

    status, said = end_of(runs.start("none", "server", *rounds, "--ckpt_path", "last"))
    assert status == 0, said
    assert [row["failures"] for row in runs.rows("server", "rounds.csv")] == [""] * 12
    runs.alone("server alone", (), *rounds)
    assert_same(runs.weights("server", 11), runs.weights("server alone", 11))
