"""Table, picture and page of ``finelip sweep``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import cast

from finelip.grid import DEFAULT, SCORES
from shared.atomic import write_text
from shared.plots import bars, save
from shared.report import Provenance, Report
from shared.sweep import Row
from shared.versions import versions

TITLES = {
    "global/t2i_r1": "T2I R@1, global",
    "global/i2t_r1": "I2T R@1, global",
    "fused/t2i_r1": "T2I R@1, fused",
    "fused/i2t_r1": "I2T R@1, fused",
    "cut77/fused/t2i_r1": "T2I R@1, fused, cut at 77",
    "chance/t2i_r1": "chance",
}
HEADLINE = "fused/t2i_r1"


def mean_and_sd(values: Sequence[float]) -> str:
    """Mean and standard deviation of one cell over the seeds.

    Example:
        >>> mean_and_sd([0.1, 0.3]), mean_and_sd([0.5])
        ('0.200 ± 0.141', '0.500')
    """
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and lines: a line per variant, a column per score."""
    shown = [name for name in SCORES if any(row.get(name) for row in rows)]
    lines = []
    for axis, value in dict.fromkeys((row["axis"], row["value"]) for row in rows):
        own = [row for row in rows if (row["axis"], row["value"]) == (axis, value)]
        cells = [mean_and_sd([float(row[name]) for row in own if row.get(name)]) for name in shown]
        lines.append([axis, value, *cells])
    return ["axis", "value", *(TITLES[name] for name in shown)], lines


def write_report(rows: Sequence[Row], folder: Path, command: str) -> str:
    """Write ``table.md``, ``sweep.png``, ``command.txt`` and ``report.html``; returns what to print."""
    first = rows[0]
    seeds = dict.fromkeys(row["seed"] for row in rows)
    provenance = cast(Provenance, first["provenance"])
    told = f"{first['test_pairs']} test pairs of {first['data']} ({provenance} data), {first['epochs']} epochs, "
    told += f"{len(seeds)} seeds, initial weights: {first['pretrained']}"
    head, lines = table(rows)
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
    write_text(folder / "table.md", f"`{command}`\n\n{told}\n\n{markdown}\n")
    write_text(folder / "command.txt", command + "\n")
    names = [value if value == DEFAULT else f"{axis} {value}" for axis, value, *_ in lines]
    keys = list(dict.fromkeys((row["axis"], row["value"]) for row in rows))
    values = [mean(float(row[HEADLINE]) for row in rows if (row["axis"], row["value"]) == key) for key in keys]
    picture = save(
        bars([[value] for value in values], names, [TITLES[HEADLINE]], x_label="recall at 1"), folder / "sweep.png"
    )
    report = Report("One thing changed at a time", told)
    report.section("Recall").figure(picture, f"{TITLES[HEADLINE]}, mean over the seeds; chance is {chance(rows)}.")
    report.table(head, lines, caption="Recall at 1, mean ± sd over the seeds", provenance=provenance)
    seconds = sum(float(row["seconds"]) for row in rows)
    report.reproduce(command, versions=versions("finelip"), seconds=seconds, runs=len(rows), seeds=", ".join(seeds))
    page = report.write(folder / "report.html")
    return f"{told}\n\n{markdown}\n\npicture: {picture}\nreport: {page}"


def chance(rows: Sequence[Row]) -> str:
    """Recall at 1 of random scores."""
    return f"{float(rows[0]['chance/t2i_r1']):.3f}"
