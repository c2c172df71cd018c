"""The page of benchmarks: sweeps are found, and told with their command, notes, table and pictures."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_tables", REPOSITORY / "tools" / "benchmark_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sweeps_are_found_with_what_lies_beside_their_tables(tables: ModuleType, tmp_path: Path) -> None:
    for name in ("sweep", "sweep_isic", "sweep_unfinished", "other"):
        (tmp_path / name).mkdir()
    for name in ("sweep", "sweep_isic", "other"):
        (tmp_path / name / "table.md").write_text(f"table of {name}\n")
    (tmp_path / "sweep" / "command.txt").write_text("fedseca sweep --seeds '[73]'\n")
    (tmp_path / "sweep" / "notes.md").write_text("Three *hospitals*.\n\nAnd more.\n")
    for partition in ("b", "a"):
        (tmp_path / "sweep" / f"heatmap_{partition}.png").touch()
    assert tables.battles(tmp_path).split("\n\n") == [
        *("## Every rule against every attack", "`fedseca sweep --seeds '[73]'`"),
        *("Three *hospitals*.", "And more.", "table of sweep"),
        "![heat map](results/sweep/heatmap_a.png)\n![heat map](results/sweep/heatmap_b.png)",
        "Record: `results/sweep/results.csv`; `ended` says when an attack blew a run up.",
        "table of sweep_isic",
        "Record: `results/sweep_isic/results.csv`; `ended` says when an attack blew a run up.\n",
    ]


def test_no_sweep_no_section(tables: ModuleType, tmp_path: Path) -> None:
    assert tables.battles(tmp_path) == ""


def test_the_committed_results_make_the_committed_page(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").symlink_to(REPOSITORY / "benchmarks" / "results")
    monkeypatch.setattr(tables, "BENCHMARKS", tmp_path)
    tables.main()
    page = (tmp_path / "README.md").read_text()
    assert page == (REPOSITORY / "benchmarks" / "README.md").read_text()
    for link in [part.split(")")[0] for part in page.split("](")[1:]]:
        assert (tmp_path / link).exists(), link
