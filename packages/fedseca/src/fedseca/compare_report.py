"""Table, picture and page of ``fedseca compare``."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from shared.plots import Curve, save, small_multiples
from shared.report import Report
from shared.sweep import Row
from shared.text_table import counted
from shared.versions import versions

NAMES = {"NoAttack": "no attack"}
PROSE = (
    "Every cell is a whole federated training: the same clients, the same images, the same local recipe; only the "
    "server's rule and what the hostile clients upload differ. Scores are macro-F1 of the global model on held-back "
    "images that no client has seen, after the last round."
)


def write_report(rows: Sequence[Row], rules: Sequence[str], attacks: Sequence[str], rounds: int, out: Path) -> str:
    """Write ``table.md``, ``curves.png``, ``command.txt`` and ``report.html`` into ``out``.

    Returns:
        What to print: the table, and where the page is.
    """
    scores = {
        (rule, attack): [row for row in rows if (row["rule"], row["attack"]) == (rule, attack)]
        for rule in rules
        for attack in attacks
    }
    seeds = sorted({int(row["seed"]) for row in rows})
    data, provenance = rows[0]["data"], rows[0]["provenance"]
    columns = ["rule", *(NAMES.get(attack, attack) for attack in attacks)]
    columns += ["worst"] if len(attacks) > 1 else []
    lines = []
    for rule in rules:
        cells = [[float(row["macro_f1"]) for row in scores[rule, attack]] for attack in attacks]
        lines.append([rule, *map(spread, cells)] + ([f"{min(map(mean, cells)):.3f}"] if len(attacks) > 1 else []))
    told = f"macro-F1 after round {rounds}, {data} ({provenance} data), " + (
        f"mean ± sd of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    )
    table = markdown(columns, lines)
    (out / "table.md").write_text(f"{told}\n\n{table}\n")

    panels = {NAMES.get(attack, attack): {rule: curve(scores[rule, attack]) for rule in rules} for attack in attacks}
    figure = small_multiples(panels, y_label="macro-F1", columns=2 if len(attacks) in (2, 4) else 3)
    picture = save(figure, out / "curves.png")

    numbers = {"rule": len(rules), "attack": len(attacks), "seed": len(seeds)}
    sizes = ", ".join(counted(number, thing) for thing, number in numbers.items())
    report = Report("Rules against attacks", f"{data} · {sizes}")
    report.section("Result", PROSE).figure(picture, "Score of the global model after each round, one panel per attack.")
    report.table(columns, lines, caption=told, provenance=provenance)  # type: ignore[arg-type]
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    (out / "command.txt").write_text(f"{command}\n")
    report.reproduce(
        command,
        versions=versions("fedseca"),
        seconds=sum(float(row["seconds"]) for row in rows),
        **{"wall time is": "the sum over all runs", "record": "results.csv"},
    )
    page = report.write(out / "report.html")
    return f"{told}\n\n{table}\n\npicture: {picture}\nreport: {page}"


def spread(values: Sequence[float]) -> str:
    """``0.853`` or ``0.853 ± 0.004``."""
    return f"{mean(values):.3f}" + (
        f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{stdev(values):.3f}" if len(values) > 1 else ""
    )


def curve(rows: Sequence[Row]) -> Curve:
    """Mean over seeds of the scores by round, with the standard deviation as band."""
    runs = [[float(value) for value in row["curve"].split()] for row in rows]
    columns = list(zip(*runs, strict=True))
    band = [stdev(column) for column in columns] if len(runs) > 1 else None
    return Curve([mean(column) for column in columns], sd=band)


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns, readable in a terminal too."""
    widths = [max(len(row[place]) for row in [columns, *lines]) for place in range(len(columns))]
    pad = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [columns, *lines]]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(row) + " |" for row in [pad[0], rule, *pad[1:]])
