"""Pages of the documentation that are made of other files of the repository while `make docs` builds it.

MkDocs loads this as a hook. ``performance``, ``robustness`` and ``experiments`` hold the sections of
``benchmarks/README.md``, from the same functions and the same records; ``contributing`` is ``CONTRIBUTING.md``.
The folder ``notebooks`` comes along, for pages to link to, and no line ends within the hyphens of an option.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import benchmark_tables
from benchmark_sections import federated

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
INLINE_CODE = re.compile(r"(?<!<pre>)<code>[^<]+</code>")
OPTION = re.compile(r"--[\w.]+")

PERFORMANCE = """# Performance

How fast the parts are and how much memory they take, against named peers. `make bench` measures all of it again; the
scripts are in `benchmarks/`, their records in `benchmarks/results`. Times are CPU seconds of the process over all
threads. A ratio is the median over alternating pairs of ours and the peer's, with its 95 % interval; a limit is kept
when the worse end of the interval meets it, and where it is missed the table says so. The machines are shared and
noisy: quote ratios, not single times.
"""
ROBUSTNESS = """# Robustness

What hostile clients do to federated training under each server rule. Every table names the command that made it and
its record; none is a result of the paper, whose tables could not be read.
"""
EXPERIMENTS = """# Experiments

What training with the packages reaches on data at hand: real volumes and pictures where the section says so, else
derived or synthetic ones. Every table names the command that made it and its record.
"""


def pages() -> dict[str, str]:
    """Name of each made page to its Markdown."""
    robustness = (federated.comparison, federated.battles)
    others = [study for study in benchmark_tables.STUDIES if study not in robustness]
    return {
        "performance.md": "\n".join([PERFORMANCE, *benchmark_tables.recorded(RESULTS)]),
        "robustness.md": "\n".join([ROBUSTNESS, *benchmark_tables.studied(RESULTS, robustness)]),
        "experiments.md": "\n".join([EXPERIMENTS, *benchmark_tables.studied(RESULTS, others)]),
        "contributing.md": (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    }


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the made pages, the pictures that they show, and the notebooks to download."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    for picture in sorted(RESULTS.rglob("*.png")):
        name = picture.relative_to(RESULTS.parent).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    for notebook in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_content(html: str, **kwargs: object) -> str:
    """Mark options in running text, for the stylesheet to keep them on one line."""

    def marked(code: re.Match[str]) -> str:
        return OPTION.sub(r'<span class="option">\g<0></span>', code[0])

    return INLINE_CODE.sub(marked, html)
