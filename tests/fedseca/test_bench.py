"""``fedseca bench``: what it builds, measures, leaves out and says."""

import csv
from pathlib import Path

import pytest
import torch

from fedseca import aggregators
from fedseca.bench import Measurement, build, every_rule, measure, measure_all, picture, run, table, write_csv
from shared.errors import UsageError
from shared.measurement import can_measure_peak, cpu_and_wall, median_interval, peak_growth


def test_every_rule_is_measured_by_default() -> None:
    assert {"FedSECA", "Krum", "NNM+TrimmedMean"} < set(every_rule())
    assert all(build(rule) for rule in every_rule())


def test_rules_take_options_and_steps() -> None:
    krum = build("Krum:b=1,m=3,squared=true")
    assert isinstance(krum, aggregators.Krum)
    assert (krum.b, krum.m, krum.squared) == (1, 3, True)
    chain = build("StaticClipping:tau=3.5+NNM:b=2+TrimmedMean:b=2")
    assert isinstance(chain, aggregators.PreAggregated)
    assert [type(step).__name__ for step in chain.pre] == ["StaticClipping", "NNM"]
    assert isinstance(chain.rule, aggregators.TrimmedMean)
    assert chain.rule.b == 2


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("Krumm", "--rules must name server rules, got 'Krumm' in 'Krumm'; did you mean Krum"),
        ("Krum+TIES", "got 'Krum' in 'Krum+TIES'; choose from Bucketing, NNM, StaticClipping"),
        ("Krum:bb=2", "bb is no option of Krum; did you mean b?"),
        ("Krum:b=-1", "Krum: b must not be negative, got -1"),
        ("Krum:b=x", "--rules: in 'Krum:b=x' b must be int, got x"),
    ],
)
def test_rules_that_do_not_exist_are_refused(rule: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        build(rule)
    assert sentence in str(refused.value)


def test_options_out_of_range_are_refused() -> None:
    for change, sentence in (
        ({"rules": []}, "--rules must name at least one, got none"),
        ({"clients": [0]}, "--clients must be at least 1, got 0"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ):
        options = {"rules": ["FedAvg"], "clients": [2], "sizes": [10], "repeats": 1, "threads": None, "device": "cpu"}
        with pytest.raises(UsageError, match=sentence):
            measure_all(**{**options, **change})  # type: ignore[arg-type]


def test_a_measurement_is_consistent() -> None:
    row = measure("FedAvg", torch.randn(4, 1000), repeats=3, bandwidth=10.0)
    assert (row.clients, row.coordinates, row.repeats, row.copy_gb_s, row.note) == (4, 1000, 3, 10.0, "")
    assert row.wall_ms is not None
    assert row.wall_low_ms is not None
    assert row.wall_high_ms is not None
    assert 0 < row.wall_low_ms <= row.wall_ms <= row.wall_high_ms
    assert row.gb_s == pytest.approx(4 * 4 * 1000 / (row.wall_ms / 1e3) / 1e9)


def test_what_a_rule_needs_is_said() -> None:
    assert measure("FLTrust", torch.randn(4, 50), 1, 1.0).note == "given a random clean update"
    skipped = measure("Bulyan", torch.randn(5, 50), 1, 1.0)
    assert skipped.wall_ms is None
    assert skipped.note == "not run: Bulyan needs K >= 4b + 3, got b = 1 and K = 5 clients"
    text = table([skipped])
    assert "Bulyan, K = 5: not run: Bulyan needs K >= 4b + 3" in text
    assert text.splitlines()[1].split()[3:] == ["-"] * 7


def test_files_and_picture(tmp_path: Path) -> None:
    rows = [
        Measurement("FedAvg", k, d, "cpu", 1, 3, d / k, d / k, d / k, 1.0, 1.0, 1.0, 2.0, 4.0, 0.5)
        for k in (5, 20)
        for d in (100, 1000)
    ]
    assert "50 %" in table(rows)
    assert "busy with something else" in table(rows)
    with write_csv(rows, tmp_path / "new" / "bench.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["wall_ms"] for row in read] == ["20", "200", "5", "50"]
    figure = picture(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["K = 5 clients", "K = 20 clients"]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == [5, 50]


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.measurement.copy_bandwidth", lambda device: 4e9)
    words = ["--rules", "[FedAvg, FLTrust, Bulyan]", "--clients", "[5]", "--sizes", "[200, 400]", "--repeats", "2"]
    run(["bench", *words, "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert "FLTrust, K = 5: given a random clean update" in told
    assert {path.name for path in tmp_path.iterdir()} == {"bench.csv", "bench.png"}
    assert len((tmp_path / "bench.csv").read_text().splitlines()) == 7


@pytest.mark.skipif(not can_measure_peak(), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_what_a_call_allocates() -> None:
    numbers = 5_000_000
    grown = peak_growth(lambda: torch.ones(numbers))
    assert 0.9 * 4 * numbers <= grown <= 1.5 * 4 * numbers
    assert peak_growth(lambda: None) < 4 * numbers


def test_the_time_of_a_call_is_a_mean_of_calls() -> None:
    counted: list[int] = []
    cpu, wall = cpu_and_wall(lambda: counted.append(1), 5)
    assert len(counted) == 5
    assert cpu >= 0
    assert wall > 0
    assert median_interval([3, 1, 2]) == (1, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    row = measure("FedSECA", torch.randn(5, 10_000, device="cuda"), 3, 1.0)
    assert row.device == "cuda"
    assert row.extra_of_input is not None
