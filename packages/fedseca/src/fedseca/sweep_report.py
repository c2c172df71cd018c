"""Tables, heat maps and page of ``fedseca sweep``."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from fedseca.compare_report import NAMES, PROSE, markdown, spread
from shared.plots import heatmap, save
from shared.report import Report
from shared.sweep import Row
from shared.versions import versions

Scores = Mapping[tuple[str, str], Sequence[float]]


def collapses(
    scores: Scores, rule: str, attacks: Sequence[str], blown_up: frozenset[tuple[str, str]] = frozenset()
) -> list[str]:
    """The attacks under which a rule ends below half of its own score without attack, or its training blew up.

    Example:
        >>> collapses({("A", "NoAttack"): [0.8], ("A", "X"): [0.3], ("A", "Y"): [0.5]}, "A", ["NoAttack", "X", "Y"])
        ['X']
    """
    if (rule, "NoAttack") not in scores:
        return []
    half = mean(scores[rule, "NoAttack"]) / 2
    return [
        attack
        for attack in attacks
        if attack != "NoAttack" and (mean(scores[rule, attack]) < half or (rule, attack) in blown_up)
    ]


def write_report(
    rows: Sequence[Row],
    rules: Sequence[str],
    attacks: Sequence[str],
    partitions: Sequence[str],
    rounds: int,
    out: Path,
) -> str:
    """Write ``table.md``, a heat map per partition and ``report.html`` into ``out``.

    Returns:
        What to print: the tables, and where the page is.
    """
    data, provenance = rows[0]["data"], rows[0]["provenance"]
    seeds = sorted({int(row["seed"]) for row in rows})
    hostile = [attack for attack in attacks if attack != "NoAttack"]
    report = Report("Rules against attacks", f"{data} · {len(rules)} rules, {len(attacks)} attacks, {len(seeds)} seeds")
    report.prose(PROSE)
    texts = []
    for partition in partitions:
        scores: Scores = {
            (rule, attack): [
                float(row["macro_f1"])
                for row in rows
                if (row["partition"], row["rule"], row["attack"]) == (partition, rule, attack)
            ]
            for rule in rules
            for attack in attacks
        }
        told = f"macro-F1 after round {rounds}, {data} ({provenance} data), {partition}, " + (
            f"mean ± sd of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
        )
        blown_up = frozenset(
            (row["rule"], row["attack"]) for row in rows if row["partition"] == partition and row.get("ended")
        )
        if blown_up:
            told += "; * training blew up, the score is that of the last model before"
        columns = ["rule", *(NAMES.get(attack, attack) for attack in attacks), "worst", "mean", "collapses under"]
        lines = []
        for rule in rules:
            under = [mean(scores[rule, attack]) for attack in hostile] or [mean(scores[rule, attacks[0]])]
            summary = [
                f"{min(under):.3f}",
                f"{mean(under):.3f}",
                ", ".join(collapses(scores, rule, attacks, blown_up)) or "none",
            ]
            marked = [spread(scores[rule, attack]) + "*" * ((rule, attack) in blown_up) for attack in attacks]
            lines.append([rule, *marked, *summary])
        table = markdown(columns, lines)
        texts.append(f"{told}\n\n{table}")
        matrix = [[mean(scores[rule, attack]) for attack in attacks] for rule in rules]
        names = [NAMES.get(attack, attack) for attack in attacks]
        figure = heatmap(matrix, list(rules), names, title=f"macro-F1, {partition}", limits=(0.0, 1.0))
        picture = save(figure, out / f"heatmap_{partition.replace(':', '_').replace('=', '_')}.png")
        report.section(partition).figure(picture, "Score of the global model after the last round.")
        report.table(columns, lines, caption=told, provenance=provenance)  # type: ignore[arg-type]
    (out / "table.md").write_text("\n\n".join(texts) + "\n")
    report.reproduce(
        shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions=versions("fedseca"),
        seconds=sum(float(row["seconds"]) for row in rows),
        **{"wall time is": "the sum over all runs", "record": "results.csv"},
    )
    page = report.write(out / "report.html")
    return "\n\n".join([*texts, f"report: {page}"])
