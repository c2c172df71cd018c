"""Tables, picture and page of ``fedsam sweep``."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from shared.atomic import write_text
from shared.errors import UsageError
from shared.plots import heatmap, save
from shared.report import Report
from shared.sweep import Row
from shared.text_table import size
from shared.versions import versions

PROSE = (
    "Dice on the test volumes after the last round. A site's score is the mean of its classes, a class's the mean over "
    "the site's volumes; the column mean counts every site alike, pooled every volume. Models of local training are "
    "scored on the data of all sites, and stand here with the mean over them. The collaborative gain is the mean over "
    "sites of a site's score under the federated model less that under its own, in points of Dice."
)


def gain_of(federated: Row, local: Row) -> float:
    """Collaborative gain of a variant and seed: what the sites gain on their own test volumes, in Dice.

    Raises:
        UsageError: The two runs have other sites.
    """
    from shared.federated.evaluation import collaborative_gain

    together, alone = json.loads(federated["scores"]), json.loads(local["scores"])
    sites = json.loads(federated["sites"])
    if sites != json.loads(local["sites"]):
        raise UsageError(f"a collaborative gain needs runs of the same sites, got {sites} and {local['sites']}")
    tested = {k: site for k, site in enumerate(sites) if f"dice/site_{site}" in together}
    return collaborative_gain(
        {k: together[f"dice/site_{site}"] for k, site in tested.items()},
        {k: alone[f"model_{k}/dice/site_{site}"] for k, site in tested.items()},
    )


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean, and standard deviation where there are several.

    Example:
        >>> spread([0.5]), spread([0.5, 0.75], ".2f")
        ('0.500', '0.62 ± 0.18')
    """
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


def table_of(rows: Sequence[Row], variants: Sequence[str], regimes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and lines, one per variant and regime: Dice per class, per site, mean, pooled, gain, bytes."""
    sites, classes = json.loads(rows[0]["sites"]), json.loads(rows[0]["classes"])
    scored = [site for site in sites if f"dice/site_{site}" in json.loads(rows[0]["scores"])]
    keys = [*(f"dice/class_{name}" for name in classes)] if len(classes) > 1 else []
    keys += [f"dice/site_{site}" for site in scored]
    gains = {"federated", "local"} <= set(regimes)
    head = ["variant", "regime", *(key.split("_", 1)[1] for key in keys), "mean", "pooled"]
    head += [*(["gain, points"] if gains else []), "a message", "the run"]
    lines = []
    for variant in variants:
        for regime in regimes:
            runs = runs_of(rows, variant, regime)
            scores = [json.loads(run["scores"]) for run in runs]
            line = [variant, regime, *(spread([s[key] for s in scores]) for key in [*keys, "dice", "dice_pooled"])]
            if gains:
                line.append(_gains(runs, runs_of(rows, variant, "local")) if regime == "federated" else "")
            sent = [int(runs[0][name]) for name in ("message_bytes", "run_bytes")]
            lines.append([*line, *(size(count) if count else "none" for count in sent)])
    return head, lines


def runs_of(rows: Sequence[Row], variant: str, regime: str) -> list[Row]:
    """The runs of a variant and regime, seeds ascending."""
    found = [row for row in rows if (row["variant"], row["regime"]) == (variant, regime)]
    return sorted(found, key=lambda row: int(row["seed"]))


def _gains(federated: Sequence[Row], local: Sequence[Row]) -> str:
    return spread([100 * gain_of(one, other) for one, other in zip(federated, local, strict=True)], "+.2f")


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(markdown(["a", "b"], [["1", "2"]]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def write_report(
    rows: Sequence[Row], variants: Sequence[str], regimes: Sequence[str], rounds: int, out: Path, command: str
) -> str:
    """Write ``table.md``, ``table.csv``, ``dice.png``, ``command.txt`` and ``report.html`` into ``out``.

    Returns:
        What to print: the table, and where the page is.
    """
    first: dict[str, Any] = rows[0]
    seeds = sorted({int(row["seed"]) for row in rows})
    start = "random weights" if first["pretrained"] == "none" else "pre-trained weights"
    seeds_told = f"mean ± sd of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    caption = (
        f"Test Dice after round {rounds}, {first['network']} from {start}, {first['data']} ({first['provenance']} "
        f"data), {seeds_told}"
    )
    head, lines = table_of(rows, variants, regimes)
    sites = [site for site in json.loads(first["sites"]) if f"dice/site_{site}" in json.loads(first["scores"])]
    names = [f"{variant}, {regime}" for variant in variants for regime in regimes]
    matrix = [
        [
            mean(json.loads(run["scores"])[key] for run in runs_of(rows, variant, regime))
            for key in [*(f"dice/site_{site}" for site in sites), "dice"]
        ]
        for variant in variants
        for regime in regimes
    ]
    picture = save(heatmap(matrix, names, [*sites, "mean"], title="Dice", limits=(0.0, 1.0)), out / "dice.png")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    write_text(out / "table.csv", text.getvalue())
    write_text(out / "table.md", f"{caption}\n\n{markdown(head, lines)}\n\n{PROSE}\n")
    write_text(out / "command.txt", command + "\n")
    counted = f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    told = f"{first['data']} · {len(variants)} variants, {len(regimes)} regimes, {counted}"
    report = Report("What to train and send", told)
    report.prose(PROSE)
    report.figure(picture, "Dice of each site's test volumes after the last round; table.csv has more digits.")
    # The picture has the sites; with them the table would be wider than the page.
    shown = [place for place, name in enumerate(head) if name not in sites]
    narrow = [[line[place] for place in shown] for line in lines]
    report.table([head[place] for place in shown], narrow, caption=caption, provenance=first["provenance"])  # type: ignore[arg-type]
    report.reproduce(
        command,
        versions=versions("fedsam"),
        seconds=sum(float(row["seconds"]) for row in rows),
        **{"wall time is": "the sum over all runs", "record": "results.csv"},
    )
    return f"{caption}\n\n{markdown(head, lines)}\n\nreport: {report.write(out / 'report.html')}"
