"""Tables, heat maps and page of ``fedseca sweep``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from fedseca.collapse import CLEAN, DEFINITION, Outcome, collapses, told, verdict
from fedseca.compare_report import NAMES, PROSE, markdown, spread
from shared.atomic import write_text
from shared.plots import heatmap, save
from shared.report import Report
from shared.sweep import Row
from shared.text_table import counted
from shared.versions import versions

Outcomes = Mapping[str, Mapping[str, Outcome]]
"""By rule and attack."""


def outcomes_of(rows: Sequence[Row], rules: Sequence[str], attacks: Sequence[str]) -> Outcomes:
    """The rows of one partition by rule and attack, seeds ascending."""
    rows = sorted(rows, key=lambda row: int(row["seed"]))

    def outcome(rule: str, attack: str) -> Outcome:
        runs = [row for row in rows if (row["rule"], row["attack"]) == (rule, attack)]
        return Outcome([float(run["macro_f1"]) for run in runs], [bool(run.get("ended")) for run in runs])

    return {rule: {attack: outcome(rule, attack) for attack in attacks} for rule in rules}


def table_of(outcomes: Outcomes) -> tuple[list[str], list[list[str]]]:
    """Head and lines: scores, worst and mean over the attacks, and what can be told beside a run without attack.

    That is the impact, the score without attack less the worst one, and under which attacks the rule collapses.
    """
    attacks = list(next(iter(outcomes.values())))
    hostile = [attack for attack in attacks if attack != CLEAN]
    compared = CLEAN in attacks and len(hostile) > 0
    columns = ["rule", *(NAMES.get(attack, attack) for attack in attacks)]
    columns += ["worst", "mean"] if hostile else []
    columns += ["impact", "collapses under"] if compared else []
    lines = []
    for rule, runs in outcomes.items():
        line = [rule, *(spread(run.scores) + "*" * any(run.blown_up) for run in runs.values())]
        under = [mean(runs[attack].scores) for attack in hostile]
        if hostile:
            line += [f"{min(under):.3f}", f"{mean(under):.3f}"]
        if compared:
            line += [f"{mean(runs[CLEAN].scores) - min(under):.3f}", told(collapses(runs))]
        lines.append(line)
    return columns, lines


def write_report(
    rows: Sequence[Row],
    rules: Sequence[str],
    attacks: Sequence[str],
    partitions: Sequence[str],
    rounds: int,
    out: Path,
    command: str,
) -> str:
    """Write ``table.md``, a heat map per partition, ``command.txt`` and ``report.html`` into ``out``.

    Returns:
        What to print: the tables, and where the page is.
    """
    data, provenance = rows[0]["data"], rows[0]["provenance"]
    seeds = sorted({int(row["seed"]) for row in rows})
    names = [NAMES.get(attack, attack) for attack in attacks]
    numbers = {"rule": len(rules), "attack": len(attacks), "seed": len(seeds)}
    sizes = ", ".join(counted(number, thing) for thing, number in numbers.items())
    report = Report("Rules against attacks", f"{data} · {sizes}")
    report.prose(PROSE)
    texts = []
    for partition in partitions:
        here = [row for row in rows if row["partition"] == partition]
        outcomes = outcomes_of(here, rules, attacks)
        caption = f"macro-F1 after round {rounds}, {data} ({provenance} data), {partition}, " + (
            f"mean ± sd of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
        )
        if any(row.get("ended") for row in here):
            caption += "; * training blew up, the score is that of the last model before"
        columns, lines = table_of(outcomes)
        judged = "collapses under" in columns
        remarks = []
        if judged:
            claim = verdict({rule: collapses(runs) for rule, runs in outcomes.items()})
            remarks = [DEFINITION, *([claim] if claim else [])]
        texts += [caption, markdown(columns, lines), *([" ".join(remarks)] if remarks else [])]
        matrix = [[mean(run.scores) for run in runs.values()] for runs in outcomes.values()]
        figure = heatmap(matrix, list(rules), names, title=f"macro-F1, {partition}", limits=(0.0, 1.0))
        name = re.sub(r"[^\w.-]+", "_", partition)
        picture = save(figure, out / f"heatmap_{name}.png")
        report.section(partition).figure(picture, "Score of the global model after the last round.")
        report.table(columns, lines, caption=caption, provenance=provenance)  # type: ignore[arg-type]
        if remarks:
            report.prose(" ".join(remarks))
    write_text(out / "table.md", "\n\n".join(texts) + "\n")
    write_text(out / "command.txt", command + "\n")
    report.reproduce(
        command,
        versions=versions("fedseca"),
        seconds=sum(float(row["seconds"]) for row in rows),
        **{"wall time is": "the sum over all runs", "record": "results.csv"},
    )
    page = report.write(out / "report.html")
    return "\n\n".join([*texts, f"report: {page}"])
