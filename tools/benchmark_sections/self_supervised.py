"""Pretraining on ultrasound."""

import json
from pathlib import Path
from typing import Any

from benchmark_sections.formatting import few_pairs, machine, markdown


def ssl_losses(record: dict[str, Any]) -> str:
    """Losses of Barlow Twins and VICReg, and where their two ways cross."""
    measured = [row for row in record["results"] if "batch" in row]
    rows = [
        [
            row["loss"],
            str(row["batch"]),
            str(row["width"]),
            row["precision"],
            f"{1e3 * row['ours_cpu_s']:.2f} ms",
            f"{1e3 * row['peer_cpu_s']:.1f} ms",
            f"{row['speedup']:.1f}",
            f"{row['low']:.1f} to {row['high']:.1f}",
            str(row["pairs"]),
            "" if row["limit"] is None else f"{row['limit']:.0f}" + ("" if row["holds"] else ", missed"),
            f"{row['ours_peak_mb']:g} and {row['peer_peak_mb']:g} MB" + ("" if row["memory_holds"] else ", missed"),
            f"{row['value_gap']:.0e}",
            f"{row['gradient_gap']:.0e}",
        ]
        for row in measured
    ]
    columns = ["loss", "batch", "width", "precision", "ours", "lightly", "speed-up", "95 %", "pairs", "promised"]
    columns += ["extra memory", "value gap", "gradient gap"]
    crossing = [
        [row["loss"], f"{row['batch_of_width']:.2f}", f"{row['speedup']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}"]
        for row in record["results"]
        if "batch_of_width" in row
    ]
    return (
        "## Losses of Barlow Twins and VICReg\n\n"
        "`benchmarks/ssl_losses.py`: value and gradient against lightly's. For a batch smaller than the width the "
        "matrix of width x width is never formed. A tenth of lightly's extra memory is promised. "
        f"{few_pairs({'results': measured})}{machine(record)}\n\n{markdown(columns, rows)}\n\n"
        "Our two ways where the batch comes near the width; above 1 Gram matrices are faster:\n\n"
        f"{markdown(['loss', 'batch / width', 'Gram faster by', '95 %'], crossing)}\n"
    )


def ssl_step(record: dict[str, Any]) -> str:
    """Training steps of the self-supervised methods."""
    columns = ["method", "peer", "ours", "peer", "ratio", "95 %", "pairs", "limit", "our peak", "its peak"]
    rows = [
        [
            row["method"],
            row["peer"],
            f"{row['ours_cpu_s']:.3f} s",
            f"{row['peer_cpu_s']:.3f} s",
            f"{row['time_ratio']:.3f}",
            f"{1 / row['high']:.3f} to {1 / row['low']:.3f}",
            str(row["pairs"]),
            f"{row['limit']:.2f}" + ("" if row["holds"] else ", missed"),
            f"{row['ours_peak_mb']} MB",
            f"{row['peer_peak_mb']} MB",
        ]
        for row in record["results"]
    ]
    first = record["results"][0]
    return (
        "## A training step of each method\n\n"
        f"`benchmarks/ssl_step.py`: {first['backbone']}, {first['batch']} images of {first['side']} pixels; forward, "
        "backward, optimiser, momentum copies and queue against the same step from lightly's parts. Most of both is "
        f"the same library calls. {few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def two_views(record: dict[str, Any]) -> str:
    """Views of a batch in torch against one picture at a time."""
    rows = [
        [
            row["recipe"],
            str(row["frames"]),
            str(row["size"]),
            f"{1e3 * row['ours_cpu_s']:.0f} ms",
            f"{1e3 * row['peer_cpu_s']:.0f} ms",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["pairs"]),
            f"{row['promised']:.0f}" + ("" if row["kept"] else ", missed"),
        ]
        for row in record["results"]
    ]
    columns = ["recipe", "frames", "pixels", "batched", "PIL", "speed-up", "95 %", "pairs", "promised"]
    return (
        "## Two views of a batch\n\n"
        "`benchmarks/two_views.py`: grey frames to two views each, as batched tensors against torchvision and Pillow, "
        f"picture by picture, one thread. {few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def frame_reading(record: dict[str, Any]) -> str:
    """Random frames from files."""
    rows = [
        [
            row["layout"],
            f"{row['frames_per_s']:g}",
            f"{row['without_index']:g}",
            f"{row['speedup']:.1f}",
            f"{row['low']:.1f} to {row['high']:.1f}",
            str(row["pairs"]),
        ]
        for row in record["results"]
    ]
    first = record["results"][0]
    return (
        "## Reading frames\n\n"
        f"`benchmarks/frame_reading.py`: random frames per second of one clip of {first['frames']} frames of "
        f"{first['size']} x {first['size']} pixels, clock time, with an index of where the frames are and without. The "
        f"ratio compares CPU seconds. {few_pairs(record)}{machine(record)}\n\n"
        f"{markdown(['layout', 'with the index', 'without', 'ratio', '95 %', 'pairs'], rows)}\n"
    )


def starts(results: Path) -> str:
    """What `usssl sweep` wrote into the folders of each study of pretrainings, `*/pretraining.json` and `*/*/table.md`.

    Of each study: `notes.md` as it stands and what the pretrainings took; of each folder: command, table,
    plot.
    """
    parts = []
    for record in sorted(results.glob("*/pretraining.json")):
        study, taken = record.parent, json.loads(record.read_text())
        rows = [[row["method"], str(row["epochs"]), str(row["steps"]), f"{row['cpu_s']:.0f}"] for row in taken.values()]
        parts += [
            f"`python tools/pretrain_alike.py --config benchmarks/results/{study.name}/pretrain.yaml`",
            (study / "notes.md").read_text().strip(),
            markdown(["pretraining", "epochs", "steps", "CPU s"], rows),
        ]
        for table in sorted(study.glob("*/table.md")):
            place, text = f"results/{study.name}/{table.parent.name}", table.read_text().strip()
            command = table.with_name("command.txt").read_text().strip()
            parts += [text] if command in text else [f"`{command}`", text]
            parts += [f"![{path.stem}]({place}/{path.name})" for path in sorted(table.parent.glob("*.png"))]
            parts += [f"Record: `{place}/{path.name}`." for path in sorted(table.parent.glob("*.csv"))]
    return "\n\n".join(["## Which pretraining helps", *parts]) + "\n" if parts else ""
