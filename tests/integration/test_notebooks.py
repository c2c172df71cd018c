"""The notebooks, executed: the code cells of each in order, in one namespace and this process.

No kernel is started: a cell is compiled and run as Jupyter would run it, with matplotlib's Agg behind it. That saves
the import of Lightning in another process, and warnings are errors here as in every other test.
"""

import ast
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))}
PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("packages/*/pyproject.toml"))
LINK = re.compile(r"\]\(([^)#]+)")


def cells(name: str, kind: str) -> list[str]:
    """The sources of the cells of one kind."""
    found = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go; the working folder and the user's cache are others, and no figure stays open."""
    for folder in ("work", "cache", "temporary"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield tmp_path
    plt.close("all")


def test_each_package_has_one() -> None:
    assert sorted(NOTEBOOKS) == PACKAGES


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    drawn = 0
    for number, source in enumerate(cells(name, "code")):
        exec(compile(source, f"{name}.ipynb, code cell {number}", "exec"), space)
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()
            drawn += 1
        plt.close("all")  # as Jupyter does when it has shown them
    assert drawn >= 3
    assert capsys.readouterr().out
    assert not list((temporary / "work").iterdir()), "a notebook writes into a temporary folder only"
    assert not list((temporary / "cache").iterdir()), "a notebook leaves nothing in the user's cache"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_clean(name: str) -> None:
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "the layout that Jupyter writes"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert 8 <= len(notebook["cells"]) <= 15
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))  # neither %magic nor !command


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_links_to_is_there(name: str) -> None:
    links = LINK.findall("\n".join(cells(name, "markdown")))
    assert f"../docs/{name}/tutorial.md" in links
    for link in links:
        assert (NOTEBOOKS[name].parent / link).is_file(), link
