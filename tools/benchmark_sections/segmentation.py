"""Federated segmentation."""

from pathlib import Path
from typing import Any

from benchmark_sections.formatting import few_pairs, machine, markdown


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
        "a quarter to a third of the time goes into torch's bilinear sampling of the images. Every run is shown. "
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
