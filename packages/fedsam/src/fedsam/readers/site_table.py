"""Reading CSV tables of cases: a header, one row per case, and messages that name the row."""

import csv
from pathlib import Path

from fedsam.volumes import Split
from shared.data.sources import existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError


def read_table(path: Path, option: str, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows below the header, values without blanks around them.

    Raises:
        UsageError: No CSV file in UTF-8, a needed column is missing, a row has another number of fields, or no row.
    """
    with existing(path, option, "file").open(newline="", encoding="utf-8-sig") as stream:
        try:
            header, *lines = ([field.strip() for field in line] for line in csv.reader(stream) if line)
        except (ValueError, csv.Error) as error:
            raise UsageError(f"{option} must be a CSV file in UTF-8 with a header, got {path} ({error})") from error
    for column in needed:
        if column not in header:
            raise UsageError(f"{option} must have a column {column}, {path} has {', '.join(header)}")
    if not lines:
        raise UsageError(f"{option} must have at least one row below the header, {path} has none")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UsageError(
                f"{option}: every row must have the {len(header)} fields of the header, "
                f"{path} has {len(line)} in row {number}"
            )
    return [dict(zip(header, line, strict=True)) for line in lines]


def split_of(text: str, option: str, path: Path, row: int) -> Split:
    """``train``, ``validation`` or ``test``, however the table calls it.

    Raises:
        UsageError: It is none of the known names.
    """
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise UsageError(
            f"{option}: the column split must hold {', '.join(SPLIT_NAMES)}, {path} holds {text!r} in row {row}"
        )
    return split  # type: ignore[return-value]
