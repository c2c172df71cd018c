"""The page of a run names the clients that were left out, whatever they have said."""

from pathlib import Path

from shared.federated.rounds import Failure, RoundLog, read_failures
from shared.report import Report
from shared.run_report import MOST_FAILURES, left_out


def page(folder: Path, names: dict[int, str] | None = None) -> str:
    report = Report("run")
    left_out(report, folder, names)
    return report.render()


def test_who_was_left_out_is_read_back(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, first=0)
    log.write(0, [0, 1, 2], {}, 1.0)
    log.write(1, [0, 1, 2], {2: "ValueError: 3, not 4: no\nslice; 1: feigned", 0: '"<b>",'}, 1.0)
    log.write(2, [1, 12], {12: ""}, 1.0)
    assert read_failures(tmp_path / "rounds.csv") == [
        Failure(1, 2, "ValueError: 3, not 4: no slice, 1: feigned"),
        Failure(1, 0, '"<b>",'),
        Failure(2, 12, ""),
    ]
    assert '<td class="number">1</td><td class="number">0</td><td>&quot;&lt;b&gt;&quot;,</td>' in page(tmp_path)
    assert '<td class="number">1</td><td>site a</td><td>' in page(tmp_path, {0: "site a"})


def test_a_run_without_failures_has_no_such_section(tmp_path: Path) -> None:
    assert "left out" not in page(tmp_path)
    RoundLog(tmp_path, first=0).write(0, [0, 1, 2], {}, 1.0)
    assert "left out" not in page(tmp_path)


def test_a_long_list_ends_with_the_newest(tmp_path: Path) -> None:
    log = RoundLog(tmp_path, first=0)
    for round in range(MOST_FAILURES + 3):
        log.write(round, [0, 1], {1: f"reason {round}."}, 1.0)
    text = page(tmp_path)
    assert f"These are the last {MOST_FAILURES}; 3 others stand there." in text
    assert "reason 2." not in text
    assert "reason 3." in text
