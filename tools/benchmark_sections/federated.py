"""Robust rules and federated rounds."""

from pathlib import Path
from typing import Any

from benchmark_sections.formatting import machine, markdown


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
            f"{row['peak_extra_of_input']:.2f}",
        ]
        for row in record["results"]
    ]
    return (
        "## Server rules\n\n"
        "`benchmarks/aggregators.py`: 20 clients, float32. GB/s are the bytes that a rule cannot help reading and "
        "writing over its CPU seconds, beside the speed of copying memory. Extra memory is in shares of the input's; "
        "results that are matrices count. "
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


def flower_rounds(record: dict[str, Any]) -> str:
    """Rounds over Flower beside rounds in one process."""
    engines = ("in process", "simulation", "deployment")
    columns = ["message", "clients", *engines, *(f"{name}, rounds/s" for name in engines), "floor", "wire / ledger"]
    rows = [
        [
            row["payload"],
            str(row["clients"]),
            *(f"{row[f'{name}: s per round']:g} s" for name in engines),
            *(f"{row[f'{name}: rounds per s']:g}" for name in engines),
            f"{row['floor, s']:g} s",
            f"{row['wire / ledger']:.4f}",
        ]
        for row in record["results"]
    ]
    return (
        "## Rounds over Flower\n\n"
        "`benchmarks/flower_rounds.py`: clients send back what they got, plain averaging, clock time of a round. The "
        "deployment is a SuperLink and one SuperNode per client as processes of this machine, with TLS and node keys; "
        "Flower starts a process for every message to a node, which here imports nothing else; at most eight nodes are "
        "asked at once. The floor copies all messages once. *Wire / ledger*: bytes between one node and the SuperLink, "
        "TLS and idle talk included, over those that the ledger counts. "
        f"{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def flower_load(record: dict[str, Any]) -> str:
    """The memory of Flower's server."""
    columns = ["clients", "rounds", "time", "window", "all uploads", "server grew by", "bound"]
    rows = [
        [
            str(row["clients"]),
            str(row["rounds"]),
            f"{row['seconds']:g} s",
            str(row["window"]),
            f"{row['all uploads, MB']:,} MB",
            f"{row['server grew by, MB']:,} MB",
            f"{row['bound, MB']:,} MB" + ("" if row["within"] else ", missed"),
        ]
        for row in record["results"]
    ]
    return (
        "## Memory of Flower's server\n\n"
        "`benchmarks/flower_load.py`: simulated clients of a ResNet-18 (11 M numbers) that send back what they got. "
        "Uploads are added up one by one; the bound is window + 4 vectors of the sum and 16 that Flower and Ray carry. "
        f"{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def comparison(results: Path) -> str:
    """What `fedseca compare` wrote."""
    folder = results / "compare"
    if not (folder / "table.md").exists():
        return ""
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
