"""The page of benchmarks: sweeps are found, and told with their command, notes, table and pictures."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("benchmark_tables")


def test_sweeps_are_found_with_what_lies_beside_their_tables(tables: ModuleType, tmp_path: Path) -> None:
    for name in ("sweep", "sweep_isic", "sweep_unfinished", "other"):
        (tmp_path / name).mkdir()
    for name in ("sweep", "sweep_isic", "other"):
        (tmp_path / name / "table.md").write_text(f"table of {name}\n")
    (tmp_path / "sweep" / "command.txt").write_text("fedseca sweep --seeds '[73]'\n")
    (tmp_path / "sweep" / "notes.md").write_text("Three *hospitals*.\n\nAnd more.\n")
    for partition in ("b", "a"):
        (tmp_path / "sweep" / f"heatmap_{partition}.png").touch()
    assert tables.federated.battles(tmp_path).split("\n\n") == [
        *("## Every rule against every attack", "`fedseca sweep --seeds '[73]'`"),
        *("Three *hospitals*.", "And more.", "table of sweep"),
        "![heat map](results/sweep/heatmap_a.png)\n![heat map](results/sweep/heatmap_b.png)",
        "Record: `results/sweep/results.csv`; `ended` says when an attack blew a run up.",
        "table of sweep_isic",
        "Record: `results/sweep_isic/results.csv`; `ended` says when an attack blew a run up.\n",
    ]


def test_studies_of_pretrainings_are_told_with_what_they_took(tables: ModuleType, tmp_path: Path) -> None:
    study = tmp_path / "heads"
    (study / "task").mkdir(parents=True)
    (study / "unfinished").mkdir()
    row = {"method": "byol", "epochs": 3, "steps": 60, "cpu_s": 12.34}
    (study / "pretraining.json").write_text(json.dumps({"byol": row}))
    (study / "notes.md").write_text("Heads *alone*.\n")
    (study / "task" / "table.md").write_text("table of task\n")
    (study / "task" / "command.txt").write_text("usssl sweep\n")
    for name in ("results.csv", "label_efficiency.png"):
        (study / "task" / name).touch()
    assert tables.self_supervised.starts(tmp_path).split("\n\n") == [
        "## Which pretraining helps",
        "`python tools/pretrain_alike.py --config benchmarks/results/heads/pretrain.yaml`",
        "Heads *alone*.",
        "| pretraining | epochs | steps | CPU s |\n| --- | --- | --- | --- |\n| byol | 3 | 60 | 12 |",
        "`usssl sweep`",
        "table of task",
        "![label_efficiency](results/heads/task/label_efficiency.png)",
        "Record: `results/heads/task/results.csv`.\n",
    ]


def test_no_sweep_no_section(tables: ModuleType, tmp_path: Path) -> None:
    assert not any(study(tmp_path) for study in tables.STUDIES)


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


MACHINE = {"cpu": "a processor", "cores": 2, "threads": 2, "python": "3", "torch": "2", "copy_bandwidth_gb_s": 9}
TIMED = {"pairs": 21, "ours_cpu_s": 0.01, "peer_cpu_s": 0.5, "speedup": 50.0, "low": 40.0, "high": 60.0}


@pytest.mark.parametrize(
    ("section", "rows", "told"),
    [
        (
            "ssl_losses",
            [
                TIMED
                | {"loss": "vicreg", "batch": 32, "width": 8192, "precision": "float32", "limit": 50.0, "holds": False}
                | {"ours_peak_mb": 2.5, "peer_peak_mb": 500.0, "memory_holds": True}
                | {"value_gap": 1e-7, "gradient_gap": 2e-7},
                TIMED | {"loss": "vicreg", "width": 1024, "batch_of_width": 0.5},
            ],
            ["| 50, missed | 2.5 and 500 MB | 1e-07 |", "| vicreg | 0.50 | 50.00 | 40.00 to 60.00 |"],
        ),
        (
            "ssl_step",
            [
                TIMED
                | {"method": "moco", "peer": "lightly", "backbone": "resnet18", "batch": 32, "side": 96}
                | {"time_ratio": 0.02, "limit": 1.1, "holds": True, "ours_peak_mb": 7, "peer_peak_mb": 9}
            ],
            ["| moco | lightly | 0.010 s | 0.500 s | 0.020 | 0.017 to 0.025 | 21 | 1.10 | 7 MB | 9 MB |"],
        ),
        (
            "two_views",
            [TIMED | {"recipe": "simclr", "frames": 64, "size": 224, "promised": 3.0, "kept": True, "pairs": 3}],
            ["| simclr | 64 | 224 | 10 ms | 500 ms | 50.00 | 40.00 to 60.00 | 3 | 3 |", "fewer than six pairs"],
        ),
        (
            "frame_reading",
            [TIMED | {"layout": "video", "frames": 240, "size": 256, "frames_per_s": 11.4, "without_index": 0.8}],
            ["| video | 11.4 | 0.8 | 50.0 | 40.0 to 60.0 | 21 |"],
        ),
    ],
)
def test_sections_of_pretraining(
    tables: ModuleType, section: str, rows: list[dict[str, object]], told: list[str]
) -> None:
    page = getattr(tables.self_supervised, section)({"machine": MACHINE, "results": rows})
    assert page.startswith("## ")
    assert f"`benchmarks/{section}.py`" in page
    for line in told:
        assert line in page


@pytest.mark.parametrize(
    ("section", "rows", "told"),
    [
        (
            "clim",
            [
                TIMED
                | {"images": 128, "texts": 128, "ours_wall_s": 0.2, "peer_wall_s": 0.6, "limit": 8.0, "holds": False},
                {"pairs": 21, "share": 0.9, "share_low": 0.88, "share_high": 0.91, "limit": 0.85, "holds": True}
                | {"gflops": 80.0, "matmul_gflops": 90.0},
                TIMED | {"peak_mb": 30.0, "stored_mb": 24.0, "memory_ratio": 1.25, "limit": 1.5, "holds": True},
                TIMED,
            ],
            ["| 50.00 | 40.00 to 60.00 | 8, missed |", "| 0.90 | 0.88 to 0.91 | 0.85 |", "| 1.25 |  | at most 1.5 |"],
        ),
        (
            "text_lengths",
            [
                TIMED
                | {"backbone": "B/16", "mean_tokens": 130.4, "floor": 0.5, "limit": 1.3, "holds": True, "gap": 1e-7}
            ],
            ["| B/16 | 130.4 | 0.01 s | 0.50 s | 50.00 | 40.00 to 60.00 | 21 | 1.3 | 2.00 | 1e-07 |"],
        ),
        (
            "clip_step",
            [
                TIMED
                | {"texts": "all", "backbone": "B/16", "batch": 8, "time_ratio": 0.02, "limit": 1.0, "holds": True}
                | {"ours_peak_mb": 7, "peer_peak_mb": 9}
            ],
            ["| all | 0.01 s | 0.50 s | 0.020 | 0.017 to 0.025 | 21 | 1 | 7 MB | 9 MB |"],
        ),
        (
            "retrieval",
            [
                TIMED
                | {"items": 100_000, "milliseconds": 80.0, "milliseconds_low": 79.0, "milliseconds_high": 101.0}
                | {"limit": 100.0, "holds": False, "equal": True},
                {"images": 1000, "texts": 1000, "seconds": 9.0, "peak_gb": 1.2, "limit": 2.0, "holds": True},
            ],
            ["| 80 ms | 79 to 101 ms | below 100 ms, missed |", "| 1.2 GB |  | below 2 GB |", "100,000 items"],
        ),
    ],
)
def test_sections_of_long_captions(
    tables: ModuleType, section: str, rows: list[dict[str, object]], told: list[str]
) -> None:
    page = getattr(tables.long_captions, section)({"machine": MACHINE, "results": rows})
    assert page.startswith("## ")
    assert f"`benchmarks/{section}.py`" in page
    for line in told:
        assert line in page
