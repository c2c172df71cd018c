"""What the sections share."""

from typing import Any


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
