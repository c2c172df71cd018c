"""Tables, picture and page of ``usssl study variance``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, cast

from shared.atomic import write_text
from shared.plots import Curve, curves, save
from shared.report import Provenance, Report
from shared.sweep import Row
from shared.text_table import counted
from shared.versions import versions
from usssl.sweep_report import distinct, markdown, mean_and_sd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = {"size": "every n-th frame", "variance": "percent"}
TITLES = {"size": "more frames of all videos", "variance": "equally many frames of more of them"}
COUNTED = ("frames", "videos", "patients", "machines", "steps")
SPREAD = ("feature_variance", "cosine_distance")


def of_axis(rows: Sequence[Row], axis: str) -> list[tuple[str, list[Row]]]:
    """The levels of an axis, with fewer frames or patients first, and the rows of each."""
    own = [row for row in rows if row["axis"] == axis]
    levels = sorted(distinct(own, "level"), key=float, reverse=axis == "size")
    return [(level, [row for row in own if row["level"] == level]) for level in levels]


def table(rows: Sequence[Row], axis: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines of one axis: what was trained on (means over the seeds) and macro-F1 with its deviation."""
    lines = []
    for level, own in of_axis(rows, axis):
        line = [level]
        line += [f"{mean(float(row[name]) for row in own):g}" for name in COUNTED]
        line += [f"{mean(float(row[name]) for row in own):.3g}" for name in SPREAD]
        score = mean_and_sd(own)
        assert score is not None
        lines.append([*line, f"{score[0]:.3f}" + ("" if score[1] is None else f" ± {score[1]:.3f}")])
    return [LEVELS[axis], *COUNTED, "feature variance", "cosine distance", "macro-F1"], lines


def picture(rows: Sequence[Row], axis: str) -> "Figure":
    """Macro-F1 against the number of frames or of videos, a band of one deviation."""
    levels = of_axis(rows, axis)
    scores = [[float(row["macro_f1"]) for row in own] for _, own in levels]
    items = "frames" if axis == "size" else "videos"
    curve = Curve(
        [mean(values) for values in scores],
        x=[mean(float(row[items]) for row in own) for _, own in levels],
        sd=[stdev(values) if len(values) > 1 else 0.0 for values in scores],
    )
    figure = curves({"macro-F1": curve}, x_label=f"{items}: {TITLES[axis]}")
    axes = figure.axes[0]
    axes.set_xscale("log")
    axes.set_xticks(curve.abscissae.tolist(), [f"{place:g}" for place in curve.abscissae])
    axes.minorticks_off()
    return figure


def write_report(rows: Sequence[Row], folder: Path, command: str) -> str:
    """Write table, pictures (``size.png``, ``variance.png``), ``command.txt`` and page; returns what to print."""
    first = rows[0]
    provenance = cast(Provenance, first["provenance"])
    seeds, axes = distinct(rows, "seed"), [axis for axis in TITLES if any(row["axis"] == axis for row in rows)]
    told = (
        f"{first['method']} on {first['pretraining_data']}, equally many steps; macro-F1 on {first['test_images']} "
        f"test images, {first['data']} ({provenance} data), {first['mode']}, {first['images']} labels, "
        f"{counted(len(seeds), 'seed')}"
    )
    network = f"Feature variance and cosine distance in a fixed network ({first['network']} weights)."
    tables = {axis: table(rows, axis) for axis in axes}
    parts = [f"{TITLES[axis]}\n\n{markdown(*tables[axis])}" for axis in axes]
    text = "\n\n".join([told, *parts, network])
    write_text(folder / "table.md", f"`{command}`\n\n{text}\n")
    write_text(folder / "command.txt", command + "\n")
    report = Report("More frames, or more different ones", told)
    report.section("Downstream", network)
    drawn = {axis: save(picture(rows, axis), folder / f"{axis}.png") for axis in axes}
    for axis in axes:
        head, lines = tables[axis]
        report.figure(drawn[axis], "Mean over the seeds, band of one standard deviation.")
        report.table(head, lines, caption=TITLES[axis], provenance=provenance)
    seconds = sum(float(row["seconds"]) for row in rows)
    report.reproduce(command, versions=versions("usssl"), seconds=seconds, runs=len(rows), seeds=", ".join(seeds))
    page = report.write(folder / "report.html")
    return f"{text}\n\npictures: {', '.join(str(path) for path in drawn.values())}\nreport: {page}"
