"""CLIP with long captions."""

from pathlib import Path
from typing import Any

from benchmark_sections.formatting import few_pairs, machine, markdown


def promise(row: dict[str, Any], sign: str = "") -> str:
    """The limit of a row, and whether it was missed."""
    return f"{sign}{row['limit']:g}" + ("" if row["holds"] else ", missed")


def clim(record: dict[str, Any]) -> str:
    """Late interaction in tiles."""
    speed, rate, memory, einsum = record["results"]
    rows = [
        [
            "forward: times as fast as a double loop",
            f"{speed['speedup']:.2f}",
            f"{speed['low']:.2f} to {speed['high']:.2f}",
            promise(speed),
        ],
        [
            "forward: times as fast as an eager einsum of each text with all images",
            f"{einsum['speedup']:.2f}",
            f"{einsum['low']:.2f} to {einsum['high']:.2f}",
            "",
        ],
        [
            "forward: share of the rate of matrix products",
            f"{rate['share']:.2f}",
            f"{rate['share_low']:.2f} to {rate['share_high']:.2f}",
            promise(rate),
        ],
        [
            "forward and backward: times as fast as a double loop",
            f"{memory['speedup']:.2f}",
            f"{memory['low']:.2f} to {memory['high']:.2f}",
            "",
        ],
        [
            f"forward and backward: {memory['peak_mb']:g} MB; sets, scores, indices {memory['stored_mb']:g} MB",
            f"{memory['memory_ratio']:.2f}",
            "",
            promise(memory, "at most "),
        ],
    ]
    return (
        "## Late interaction\n\n"
        f"`benchmarks/clim.py`: {speed['images']} images by {speed['texts']} texts, 40 tokens of width 512 each. The "
        "double loop takes one matrix product per pair, so it cannot be slower by more than the rate of small products "
        f"is lower. By the clock: {1e3 * speed['ours_wall_s']:.0f} ms against {1e3 * speed['peer_wall_s']:.0f} ms, "
        f"{rate['gflops']:g} of {rate['matmul_gflops']:g} GFLOP/s. {few_pairs(record)}{machine(record)}\n\n"
        f"{markdown(['what', 'measured', '95 %', 'promised'], rows)}\n"
    )


def text_lengths(record: dict[str, Any]) -> str:
    """Texts cut to the longest of their batch."""
    rows = [
        [
            row["backbone"],
            f"{row['mean_tokens']:g}",
            f"{row['ours_cpu_s']:.2f} s",
            f"{row['peer_cpu_s']:.2f} s",
            f"{row['speedup']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}",
            str(row["pairs"]),
            promise(row),
            f"{1 / row['floor']:.2f}",
            f"{row['gap']:.0e}",
        ]
        for row in record["results"]
    ]
    columns = ["text tower", "mean tokens", "by length", "248 slots", "speed-up", "95 %", "pairs", "promised"]
    return (
        "## Texts by length\n\n"
        "`benchmarks/text_lengths.py`: captions sorted by length and cut to the longest of their batch, against all "
        "slots; the last columns: what one would gain without any padding, the largest difference of the tokens. "
        f"{few_pairs(record)}{machine(record)}\n\n{markdown([*columns, 'no padding', 'gap'], rows)}\n"
    )


def clip_step(record: dict[str, Any]) -> str:
    """A training step against open_clip's."""
    rows = [
        [
            row["texts"],
            f"{row['ours_cpu_s']:.2f} s",
            f"{row['peer_cpu_s']:.2f} s",
            f"{row['time_ratio']:.3f}",
            f"{1 / row['high']:.3f} to {1 / row['low']:.3f}",
            str(row["pairs"]),
            promise(row),
            f"{row['ours_peak_mb']} MB",
            f"{row['peer_peak_mb']} MB",
        ]
        for row in record["results"]
    ]
    first = record["results"][0]
    columns = ["texts", "ours", "open_clip", "ratio", "95 %", "pairs", "limit", "our peak", "its peak"]
    return (
        "## A training step of FineLIP\n\n"
        f"`benchmarks/clip_step.py`: {first['backbone']}, {first['batch']} pairs; forward with refinement and late "
        "interaction, backward and AdamW, against open_clip's own step with a context of 248 and its contrastive loss. "
        f"{few_pairs(record)}{machine(record)}\n\n{markdown(columns, rows)}\n"
    )


def retrieval(record: dict[str, Any]) -> str:
    """A search in an index, and memory of an evaluation."""
    search, evaluation = record["results"]
    rows = [
        [
            f"query among {search['items']:,} items: exact ten best, 200 scored anew",
            f"{search['milliseconds']:g} ms",
            f"{search['milliseconds_low']:g} to {search['milliseconds_high']:g} ms",
            f"below {search['limit']:g} ms" + ("" if search["holds"] else ", missed"),
        ],
        [
            f"fused evaluation of {evaluation['images']} x {evaluation['texts']}, in {evaluation['seconds']:g} s",
            f"{evaluation['peak_gb']:g} GB",
            "",
            f"below {evaluation['limit']:g} GB" + ("" if evaluation["holds"] else ", missed"),
        ],
    ]
    return (
        "## Retrieval\n\n"
        "`benchmarks/retrieval.py`: 40 tokens of width 512 per item in fp16 shards, read from memory maps with a warm "
        "page cache, clock time without the encoding of the text; the ten found are those of plain float32 in memory: "
        f"{'yes' if search['equal'] else 'NO'}, which takes {search['speedup']:.2f} times as much CPU. The memory is "
        f"the whole process's, libraries included. {machine(record)}\n\n"
        f"{markdown(['what', 'measured', '95 %', 'promised'], rows)}\n"
    )


def ablations(results: Path) -> str:
    """What `finelip sweep` wrote into `late-detail*/`: notes, the table with its command, pictures."""
    parts = []
    for table in sorted(results.glob("late-detail*/table.md")):
        folder = table.parent
        notes = folder / "notes.md"
        parts += [notes.read_text().strip()] if notes.exists() else []
        parts.append(table.read_text().strip())
        parts += [f"![{path.stem}](results/{folder.name}/{path.name})" for path in sorted(folder.glob("*.png"))]
        parts.append(f"Record: `results/{folder.name}/results.csv`.")
    return "\n\n".join(["## What FineLIP's parts are worth", *parts]) + "\n" if parts else ""
