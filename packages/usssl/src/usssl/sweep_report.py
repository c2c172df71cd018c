"""Tables, label-efficiency plot and page of ``usssl sweep``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, cast

from shared.atomic import write_text
from shared.plots import Curve, save, small_multiples
from shared.report import Provenance, Report
from shared.sweep import Row
from shared.text_table import counted
from shared.versions import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "macro_f1"


def mean_and_sd(rows: Sequence[Row], **key: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation of macro-F1 over the seeds of one cell; no deviation of one seed."""
    values = [float(row[HEADLINE]) for row in rows if all(row[name] == value for name, value in key.items())]
    if not values:
        return None
    return mean(values), stdev(values) if len(values) > 1 else None


def distinct(rows: Sequence[Row], column: str) -> list[str]:
    """The values of a column in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def table(rows: Sequence[Row], mode: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines of one mode: a line per start, a column per share of the labels."""
    fractions = sorted(distinct(rows, "fraction"), key=float, reverse=True)
    lines = []
    for init in distinct(rows, "init"):
        line = [init]
        for fraction in fractions:
            cell = mean_and_sd(rows, init=init, mode=mode, fraction=fraction)
            line.append("" if cell is None else f"{cell[0]:.3f}" + ("" if cell[1] is None else f" ± {cell[1]:.3f}"))
        lines.append(line)
    return ["init", *(f"{fraction} %" for fraction in fractions)], lines


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def label_efficiency(rows: Sequence[Row]) -> "Figure":
    """Macro-F1 against the share of the labels, a panel for each mode, a band of one deviation."""
    fractions = sorted(distinct(rows, "fraction"), key=float)
    panels: dict[str, dict[str, Curve]] = {}
    for mode in distinct(rows, "mode"):
        for init in distinct(rows, "init"):
            cells = {f: mean_and_sd(rows, init=init, mode=mode, fraction=f) for f in fractions}
            known = {float(f): cell for f, cell in cells.items() if cell is not None}
            panels.setdefault(mode, {})[init] = Curve(
                [cell[0] for cell in known.values()],
                x=list(known),
                sd=[cell[1] or 0.0 for cell in known.values()],
            )
    figure = small_multiples(
        panels, x_label="percent of the labels", y_label="macro-F1", columns=len(panels), panel_height=3.0
    )
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.set_xticks([float(f) for f in fractions], fractions)
        axes.minorticks_off()
    return figure


def write_report(rows: Sequence[Row], folder: Path, command: str) -> str:
    """Write ``table.md``, ``label_efficiency.png``, ``command.txt`` and ``report.html``; returns what to print."""
    seeds, modes = distinct(rows, "seed"), distinct(rows, "mode")
    first = rows[0]
    provenance = cast(Provenance, first["provenance"])
    told = (
        f"macro-F1 on {first['test_images']} test images, {first['data']} ({provenance} data), "
        f"{counted(len(seeds), 'seed')}"
    )
    tables = {mode: table(rows, mode) for mode in modes}
    parts = [f"{told}, {mode}\n\n{markdown(*tables[mode])}" for mode in modes]
    text = "\n\n".join(parts)
    write_text(folder / "table.md", f"`{command}`\n\n{text}\n")
    write_text(folder / "command.txt", command + "\n")
    picture = save(label_efficiency(rows), folder / "label_efficiency.png")
    report = Report("Which start helps, with how many labels", told)
    report.section("Label efficiency").figure(picture, "Mean over the seeds, band of one standard deviation.")
    for mode in modes:
        head, lines = tables[mode]
        report.table(head, lines, caption=f"macro-F1, {mode}, mean ± sd", provenance=provenance)
    seconds = sum(float(row["seconds"]) for row in rows)
    report.reproduce(command, versions=versions("usssl"), seconds=seconds, runs=len(rows), seeds=", ".join(seeds))
    page = report.write(folder / "report.html")
    return f"{text}\n\npicture: {picture}\nreport: {page}"
