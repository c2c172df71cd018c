"""``manifest.csv``: which video is where, whose it is, and which split it belongs to."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError

REQUIRED = ("video_id", "path")
KNOWN = (*REQUIRED, "patient_id", "split", "machine", "fps", "n_frames")


@dataclass(frozen=True)
class Entry:
    """One row; empty cells are ``None``."""

    video_id: str
    path: str
    split: str
    patient: str | None
    machine: str | None
    fps: float | None
    frames: int | None


def read_manifest(file: Path) -> list[Entry]:
    """All rows.

    Raises:
        UsageError: A column is missing, a value is no number or no split, or a video is listed twice.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"data.source.manifest must be a CSV file in UTF-8, got {file} ({error})") from error
    for name in REQUIRED:
        if name not in names:
            raise UsageError(
                f"data.source.manifest must have the columns {' and '.join(REQUIRED)}, "
                f"{file} has {', '.join(names) or 'none'}"
            )
    entries = [_entry(row, number, file) for number, row in enumerate(rows, start=2)]
    if not entries:
        raise UsageError(f"data.source.manifest must list at least one video, {file} lists none")
    seen: set[str] = set()
    for entry in entries:
        if entry.video_id in seen:
            raise UsageError(f"data.source.manifest must list every video_id once, {file} has {entry.video_id} twice")
        seen.add(entry.video_id)
    return entries


def _entry(row: dict[str, str | None], number: int, file: Path) -> Entry:
    def text(name: str) -> str | None:
        return (row.get(name) or "").strip() or None

    def positive(name: str) -> float | None:
        value = text(name)
        if value is None:
            return None
        try:
            amount = float(value)
        except ValueError:
            amount = 0.0
        if not amount > 0:
            raise UsageError(
                f"data.source.manifest: {name} must be a positive number, {file} has {value!r} in row {number}"
            )
        return amount

    split = text("split") or "train"
    if split.lower() not in SPLIT_NAMES:
        raise UsageError(
            f"data.source.manifest: split must be one of {', '.join(SPLIT_NAMES)}, {file} has {split!r} in row {number}"
        )
    video_id, path = text("video_id"), text("path")
    if video_id is None or path is None:
        raise UsageError(f"data.source.manifest: video_id and path must be filled in, {file} has none in row {number}")
    frames = positive("n_frames")
    return Entry(
        video_id=video_id,
        path=path,
        split=SPLIT_NAMES[split.lower()],
        patient=text("patient_id"),
        machine=text("machine"),
        fps=positive("fps"),
        frames=None if frames is None else int(frames),
    )


def write_manifest(file: Path, rows: Sequence[Sequence[object]]) -> None:
    """Rows of :data:`KNOWN`, under another name first."""
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([KNOWN, *rows])
    temporary.replace(file)
