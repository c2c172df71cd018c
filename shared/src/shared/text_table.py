"""Tables, numbers and sizes as a terminal shows them."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush, the first to the left and the others to the right.

    Example:
        >>> print(text_table(["rule", "s"], [["mean", "1"], ["median", "12"]]))
        rule     s
        mean     1
        median  12
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size(count: int | float) -> str:
    """Bytes in decimal units with four significant digits.

    Example:
        >>> size(160), size(44_764_968), size(447_649_680)
        ('160 B', '44.76 MB', '447.6 MB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.4g} {units[unit]}"
