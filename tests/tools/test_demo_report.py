"""The page of the demo: numbers and badges from the records, pictures inside, nothing asked of another machine."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shared.errors import RunError

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("fedsam", "usssl", "finelip", "fedseca")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("demo_report")


def put(file: Path, command: str, provenance: str, pretrained: str, **metrics: float) -> None:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    record: dict[str, Any] = {"command": command, "metrics": named}
    record |= {"data": {"name": "data", "provenance": provenance}, "model": {"pretrained": pretrained}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record))


def dress(folder: Path) -> None:
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text("<p>own</p>")
    Figure((1, 1)).savefig(folder / "curves.png")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for package, score in (("fedsam", {"test__dice": 0.5123}), ("finelip", {"test__fused__t2i_r1": 0.6234})):
        for number in (9, 10):  # the newest by number, not by letters
            run = tmp_path / package / "fit" / f"version_{number}"
            put(run / "results.json", f"{package} fit --at {number}", "derived", "self")
            shown = {name: value if number == 10 else 0.1111 for name, value in score.items()}
            put(run / "results_test.json", f"{package} test", "derived", "self", **shown)
            dress(run)
    for name in ("pretrain", "finetune"):
        run = tmp_path / "usssl" / name / "version_0"
        put(run / "results.json", f"usssl {name}", "synthetic", "none")
        put(run / "results_test.json", f"usssl {name}", "synthetic", "file", test__macro_f1=0.7345)
        dress(run)
    out = tmp_path / "fedseca" / "compare"
    dress(out)
    (out / "command.txt").write_text("fedseca compare --out here\n")
    for attack, f1 in (("NoAttack", 0.9), ("ALIE", 0.8), ("IPM", 0.4567), ("SignFlip", 0.7)):
        cell = out / "cells" / "fedseca" / f"FedSECA-{attack}-73" / "version_0" / "results.json"
        put(cell, "fedseca fit", "real", "none", test__macro_f1=f1)
    return tmp_path


def test_numbers_badges_and_commands_are_those_of_the_records(page: ModuleType, runs: Path) -> None:
    lines = page.write_page(runs)
    text = re.sub("<span>(.*?)</span>", r"\1", (runs / "report.html").read_text())
    sections = dict(zip(PACKAGES, text.split("<h2>")[1:], strict=True))
    expected = {
        "fedsam": ("0.5123", "derived", "self", "fedsam fit --at 10\nfedsam test"),
        "usssl": ("0.7345", "synthetic", "file", "usssl pretrain\nusssl finetune"),
        "finelip": ("0.6234", "derived", "self", "finelip fit --at 10\nfinelip test"),
        "fedseca": ("0.4567", "real", "none", "fedseca compare --out here"),
    }
    for line, (package, (value, provenance, pretrained, command)) in zip(lines, expected.items(), strict=False):
        section = sections[package]
        assert f'<p class="value">{value}</p>' in section
        assert f">{provenance} data</span>" in section
        assert f"pretrained: {pretrained}<" in section
        assert f"<code>{command}</code>" in section
        assert line.startswith(f"{package}: ")
        assert line.endswith(f": {value} ({provenance} data, pretrained: {pretrained})")
    assert lines[-1] == f"report: {runs / 'report.html'}"


def test_pictures_are_inside_links_lead_to_files_and_no_address_is_loaded(page: ModuleType, runs: Path) -> None:
    page.write_page(runs)
    text = (runs / "report.html").read_text()
    sources = re.findall(r'<img src="([^"]{30})', text)
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    links = re.findall(r'href="([^"]*)"', text)
    assert len(links) == 9
    assert all((runs / link).is_file() for link in links)
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    "gone",
    [
        "fedsam",
        "usssl/pretrain",
        "finelip/fit/version_10/results_test.json",
        "fedseca/compare/cells/fedseca",
        "fedseca/compare/cells/fedseca/FedSECA-IPM-73",
        "usssl/finetune/version_0/curves.png",
    ],
)
def test_a_missing_run_is_refused_in_one_sentence(page: ModuleType, runs: Path, gone: str) -> None:
    path = runs / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match=r"missing|holds none|has no"):
        page.write_page(runs)
    ended = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "demo_report.py", runs], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert not (runs / "report.html").exists()


def test_commands_for_own_data_are_those_of_the_tutorials(page: ModuleType) -> None:
    assert tuple(job.package for job in page.JOBS) == PACKAGES
    for job in page.JOBS:
        tutorial = (REPOSITORY / "docs" / job.package / "tutorial.md").read_text()
        assert all(f"$ {command}\n" in tutorial for command in job.own)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_every_picture_and_asks_for_nothing(page: ModuleType, runs: Path, width: int) -> None:
    page.write_page(runs)
    probe = """<script>addEventListener("load", () => { document.title = JSON.stringify({
        widths: [...document.images].map(image => image.naturalWidth),
        asked: performance.getEntriesByType("resource").map(entry => entry.name).filter(n => !n.startsWith("data:")),
        overflow: document.documentElement.scrollWidth - innerWidth}); });</script>"""
    text = (runs / "report.html").read_text()
    probed = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    assert probed != text
    (runs / "probed.html").write_text(probed.replace("</body>", probe + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += f"--disable-component-update --disable-sync --window-size={width},2600 --dump-dom"
    dumped = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={runs / 'browser'}", (runs / "probed.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    found = re.search(r"<title>(\{.*?\})</title>", dumped)
    assert found, dumped[:500]
    told = json.loads(found[1])
    assert len(told["widths"]) == 5
    assert min(told["widths"]) > 0
    assert told["asked"] == []
    assert told["overflow"] <= 0
