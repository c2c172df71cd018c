"""Write benchmarks/README.md from the recorded results; the last step of `make bench`."""

import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HEAD = """# Benchmarks

Each script is one claim: `python benchmarks/NAME.py [--quick] [--out FILE]`; `make bench` runs them all and writes this
page from what they recorded. Times are CPU seconds of the process over all threads. A ratio is the
median over alternating pairs of ours and the peer's, with its 95 % interval; a limit is kept when the worse end of the
interval meets it. The machines are shared and noisy: quote ratios, not single times.
"""


def machine(record: dict[str, Any]) -> str:
    """One line about where the numbers were measured."""
    m = record["machine"]
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, Python {m['python']}, torch {m['torch']}, "
        f"copy bandwidth of one thread {m['copy_bandwidth_gb_s']} GB/s."
    )


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def few_pairs(record: dict[str, Any]) -> str:
    """A warning where the range of all pairs is all that there is."""
    few = any(row["pairs"] < 6 for row in record["results"])
    told = "With fewer than six pairs the interval is their whole range, which covers the median with less than 95 %."
    return f"{told} " if few else ""


def aggregators(record: dict[str, Any]) -> str:
    """The rules against their peers."""
    columns = [
        "rule",
        "peer",
        "d",
        "ours",
        "peer",
        "speed-up",
        "95 %",
        "pairs",
        "promised",
        "GB/s",
        "of copy",
        "extra memory",
    ]
    rows = [
        [
            row["rule"],
            row["peer"],
            f"{row['d']:.0e}".replace("e+0", "e"),
            f"{1e3 * row['ours_cpu_s']:.2f} ms",
            f"{1e3 * row['peer_cpu_s']:.2f} ms",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["pairs"]),
            "" if row["promised"] is None else f"{row['promised']:.2f}" + ("" if row["kept"] else ", missed"),
            f"{row['gb_s']:.1f}" if "gb_s" in row else "",
            f"{row['of_copy_bandwidth']:.0%}" if "gb_s" in row else "",
            f"{row['peak_extra_of_input']:.2f} of the input",
        ]
        for row in record["results"]
    ]
    return (
        "## Server rules\n\n"
        "`benchmarks/aggregators.py`: 20 clients, float32. GB/s are the bytes that a rule cannot help reading and "
        "writing over its CPU seconds, beside the speed of copying memory. Results that are matrices count as extra "
        "memory. "
        f"{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def rounds(record: dict[str, Any]) -> str:
    """The overhead of a round."""
    columns = ["clients", "numbers", "round", "its copies alone", "overhead", "95 %", "limit"]
    rows = [
        [
            str(row["clients"]),
            f"{row['numbers']:,}",
            f"{row['round_ms']} ms",
            f"{row['copies_ms']} ms",
            f"{row['overhead_ms']} ms",
            f"{row['low_ms']} to {row['high_ms']} ms",
            f"{row['limit_ms']:g} ms" + ("" if row["within"] else ", missed"),
        ]
        for row in record["results"]
    ]
    return (
        "## A federated round\n\n"
        "`benchmarks/rounds.py`: clients that do nothing, ResNet-18, plain averaging; clock time, Lightning's loop "
        f"included, against a bare loop of the copies that cannot be avoided. {machine(record)}\n\n"
        f"{markdown(columns, rows)}\n"
    )


def sam_round(record: dict[str, Any]) -> str:
    """The overhead of a round of FLAP-SAM."""
    columns = ["time", "clients", "numbers", "round", "training", "overhead", "95 %", "the rule alone", "limit"]
    rows = [
        [
            told,
            str(row["clients"]),
            f"{row['numbers']:,}",
            *(f"{row[f'{part}_{kind}_ms']} ms" for part in ("round", "training", "overhead")),
            f"{row[f'low_{kind}_ms']} to {row[f'high_{kind}_ms']} ms",
            f"{row[f'rule_{kind}_ms']} ms",
            f"{row['limit_ms']:g} ms" + ("" if row[f"high_{kind}_ms"] < row["limit_ms"] else ", missed"),
        ]
        for row in record["results"]
        for kind, told in (("wall", "clock"), ("cpu", "CPU"))
    ]
    return (
        "## A federated round of FLAP-SAM\n\n"
        "`benchmarks/sam_round.py`: the default model and sites, one batch each; what a round takes beyond the "
        "clients' training steps and loaders. Beside the rule stand the clients' AdamW moments, written to files "
        "and read back, and Lightning's log of ten values. "
        f"{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def clients(record: dict[str, Any]) -> str:
    """Batched against sequential clients."""
    columns = ["model", "parameters", "clients", "device", "batched", "sequential", "speed-up", "95 %", "auto takes"]
    rows = [
        [
            row["model"],
            f"{row['parameters']:,}",
            str(row["clients"]),
            row["device"] + (f", {row['threads']} threads" if row["device"] == "cpu" else ""),
            f"{row['batched_rounds_per_s']} rounds/s",
            f"{row['sequential_rounds_per_s']} rounds/s",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            row["auto"],
        ]
        for row in record["results"]
    ]
    return (
        "## Clients trained together\n\n"
        "`benchmarks/clients.py`: whole rounds with the clients as one batched computation against one client after "
        "the other; below 1 batching is the slower way. Rounds per second are clock time, the speed-up compares CPU "
        f"seconds (on an accelerator clock time). {machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def lora_aggregation(record: dict[str, Any]) -> str:
    """Exact products of LoRA factors against a randomised SVD."""
    columns = [
        "clients",
        "threads",
        "targets",
        "ours",
        "randomised",
        "speed-up",
        "95 %",
        "pairs",
        "promised",
        "ours, clock",
        "randomised, clock",
        "floor",
        "of it",
    ]
    columns += ["our error", "its error"]
    rows = []
    for row in record["results"]:
        floor = row["least_gflop"] / row["gflop_s"]
        rows.append(
            [
                row["clients"],
                str(row["threads"]),
                str(row["targets"]),
                f"{1e3 * row['ours_cpu_s']:.0f} ms",
                f"{1e3 * row['peer_cpu_s']:.0f} ms",
                f"{row['speedup']:.2f}",
                f"{row['low']:.2f} to {row['high']:.2f}",
                str(row["pairs"]),
                f"{row['promised']:.0f}" + ("" if row["kept"] else ", missed"),
                f"{1e3 * row['ours_wall_s']:.0f} ms",
                f"{1e3 * row['peer_wall_s']:.0f} ms",
                f"{1e3 * floor:.0f} ms",
                f"{row['ours_cpu_s'] / floor:.1f} times",
                f"{row['our_error']:.0e}",
                f"{row['peer_error']:.0e}",
            ]
        )
    return (
        "## Combining LoRA factors\n\n"
        "`benchmarks/lora_aggregation.py`: the best rank-32 factors of six clients' mean product in all targets of a "
        "ViT-B, against scikit-learn's randomised SVD of the dense product. The floor is the least number of float64 "
        f"operations ({record['results'][0]['least_gflop']} GFLOP) at the rate of a plain matrix product. Eight times "
        "is at or beyond that floor on one thread; a third of the time goes into LAPACK's eigenvectors of the small "
        "cores. In float32 it would be nearer, but squaring would lose singular values below about 3e-4 of the "
        "largest. With two threads the peer's LAPACK spends CPU on waiting: compare the clock's columns too. "
        f"{few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def augmentation(record: dict[str, Any]) -> str:
    """Batch-wise against sample-wise augmentation."""
    columns = ["pixels", "windows", "batch-wise", "one by one", "speed-up", "95 %", "pairs", "promised", "floor"]
    bandwidth = 1e9 * record["machine"]["copy_bandwidth_gb_s"]
    rows = [
        [
            str(row["size"]),
            str(row["windows"]),
            f"{1e3 * row['ours_cpu_s']:.1f} ms",
            f"{1e3 * row['peer_cpu_s']:.1f} ms",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["pairs"]),
            f"{row['promised']:.0f}" + ("" if row["kept"] else ", missed"),
            f"{1e3 * 10 * 5 * row['windows'] * row['size'] ** 2 / bandwidth:.1f} ms",
        ]
        for row in record["results"]
    ]
    return (
        "## Augmentation\n\n"
        "`benchmarks/augmentation.py`: windows of five slices, batch-wise in torch against one after the other with "
        "PIL and scipy. The floor is reading and writing images (float32) and labels (uint8) once at the speed of "
        "copying, as measured beside the run (a busy machine makes it slow, and the floor high); "
        "30 to 40 % of the time goes into torch's bilinear sampling of the images. "
        f"{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def volume_inference(record: dict[str, Any]) -> str:
    """One prediction per slice against the mean of five."""
    columns = ["volume", "pixels", "fast", "fused", "speed-up", "95 %", "pairs", "promised", "floor", "Dice of both"]
    columns += ["Dice of the truth", "memory"]
    rows = [
        [
            " x ".join(map(str, row["volume"])),
            str(row["image_size"]),
            f"{row['ours_cpu_s']:.2f} s",
            f"{row['peer_cpu_s']:.2f} s",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["pairs"]),
            f"{row['promised']:.0f}" + ("" if row["kept"] else ", missed"),
            "5",
            f"{row['agreement']:.5f}",
            f"{row['dice_of_truth']:.3f}",
            f"{row['fast_extra_mb']:.0f} and {row['fused_extra_mb']:.0f} MB",
        ]
        for row in record["results"]
    ]
    return (
        "## Segmenting a volume\n\n"
        "`benchmarks/volume_inference.py`: one prediction per slice against the mean over the five windows that hold "
        "it, both with one scaling; a small vision transformer trained for 60 steps on the volume itself. The floor is "
        "the ratio of five that the number of predictions allows: arg-max and the first reading of the volume are the "
        f"same in both. {few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def sam_step(record: dict[str, Any]) -> str:
    """Training steps of FLAP-SAM."""
    columns = [
        "case",
        "peer",
        "ours",
        "peer",
        "ratio",
        "95 %",
        "pairs",
        "limit",
        "our peak",
        "its peak",
        "ratio",
        "limit",
    ]
    rows = [
        [
            row["case"],
            row["peer"],
            f"{row['ours_cpu_s']:.2f} s",
            f"{row['peer_cpu_s']:.2f} s",
            f"{row['time_ratio']:.3f}",
            f"{1 / row['high']:.3f} to {1 / row['low']:.3f}",
            str(row["pairs"]),
            f"{row['time_limit']:.2f}" + ("" if row["time_holds"] else ", missed"),
            f"{row['ours_peak_mb']} MB",
            f"{row['peer_peak_mb']} MB",
            f"{row['memory_ratio']:.3f}",
            ""
            if row["memory_limit"] is None
            else f"{row['memory_limit']:.2f}" + ("" if row["memory_holds"] else ", missed"),
        ]
        for row in record["results"]
    ]
    first = record["results"][0]
    return (
        "## A training step of FLAP-SAM\n\n"
        f"`benchmarks/sam_step.py`: {first['size']} at {first['image_size']} pixels, one window of {first['slices']} "
        "slices, forward, backward and AdamW. Frozen weights need no gradient of their own: of the three products per "
        "weight of full fine-tuning two are left, so the floor is a ratio of 0.67 and what LoRA adds. "
        f"{few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


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


def comparison(folder: Path) -> str:
    """What `fedseca compare` wrote."""
    return (
        "## Rules against attacks\n\n"
        "`fedseca compare --rounds 40 --seeds '[73, 74, 75]' --out benchmarks/results/compare`: five clients, two of "
        f"them hostile, Dirichlet(1). Record: `results/compare/results.csv`.\n\n{(folder / 'table.md').read_text()}\n"
        "![curves](results/compare/curves.png)\n"
    )


def battles(results: Path) -> str:
    """What `fedseca sweep` wrote into `sweep*/`, one folder after the other.

    Of each folder: the command from `command.txt`, `notes.md` as it stands, the table and the heat maps.
    """
    parts = []
    for table in sorted(results.glob("sweep*/table.md")):
        folder = table.parent
        command, notes = folder / "command.txt", folder / "notes.md"
        parts += [f"`{command.read_text().strip()}`"] if command.exists() else []
        parts += [notes.read_text().strip()] if notes.exists() else []
        parts.append(table.read_text().strip())
        pictures = sorted(folder.glob("heatmap_*.png"))
        parts += ["\n".join(f"![heat map](results/{folder.name}/{path.name})" for path in pictures)] if pictures else []
        parts.append(f"Record: `results/{folder.name}/results.csv`; `ended` says when an attack blew a run up.")
    return "\n\n".join(["## Every rule against every attack", *parts]) + "\n" if parts else ""


def hippocampus(results: Path) -> str:
    """What `fedsam sweep` wrote on the volumes of the hippocampus into `hippocampus*/`, one folder after the other.

    Of each folder: the command, `notes.md` as it stands, the table, the heat map, overlays by `fedsam predict`.
    """
    parts = []
    for table in sorted(results.glob("hippocampus*/table.md")):
        folder = table.parent
        pictures = [folder / "dice.png", *sorted(folder.glob("overlay_*.png"))]
        parts += [
            f"`{(folder / 'command.txt').read_text().strip()}`",
            (folder / "notes.md").read_text().strip(),
            table.read_text().strip(),
            *(f"![{path.stem.replace('_', ' ')}](results/{folder.name}/{path.name})" for path in pictures),
            f"Record: `results/{folder.name}/results.csv`.",
        ]
    return "\n\n".join(["## Hippocampus", *parts]) + "\n" if parts else ""


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


def main() -> None:
    """Write the page."""
    results = BENCHMARKS / "results"
    parts = [HEAD]
    federated = (aggregators, rounds, sam_round, clients, lora_aggregation, augmentation, volume_inference, sam_step)
    sections = (*federated, ssl_losses, ssl_step, two_views, frame_reading)
    for section in sections:
        name = section.__name__
        if (file := results / f"{name}.json").exists():
            parts.append(section(json.loads(file.read_text())))
    if segmented := hippocampus(results):
        parts.append(segmented)
    if started := starts(results):
        parts.append(started)
    if (results / "compare" / "table.md").exists():
        parts.append(comparison(results / "compare"))
    if fought := battles(results):
        parts.append(fought)
    (BENCHMARKS / "README.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
