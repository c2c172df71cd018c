"""Captions in a table, as users of open_clip have them."""

import csv
from collections.abc import Sequence
from pathlib import Path

from finelip.sources.captioned_files import CaptionedFiles, Record
from finelip.sources.json_files import text_at
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError


class CaptionCsv(CaptionedFiles):
    """A table with a header: a column of picture files, one of captions and perhaps one of splits.

    Several rows with one picture are captions of it. Without a column of splits all rows of ``csv`` are for training;
    further tables may hold the validation and the test pairs.

    Args:
        csv: The table, or the training table.
        root: The folder that picture names are relative to; without it that of ``csv``. Absolute names stay.
        validation_csv: Another table.
        test_csv: Another table.
        image: Column of the picture files.
        caption: Column of the captions.
        split: Column that says ``train``, ``val`` or ``test``; ``None`` takes ``split`` where ``csv`` has it.
        sep: Between the fields; ``None`` takes the tab where the header holds one, else the comma. open_clip's own
            default is the tab.
        name: What the set is called; without it the table's name.
        provenance: Whether the pictures are real, derived or synthetic.
    """

    def __init__(
        self,
        csv: str | Path,
        root: str | Path | None = None,
        validation_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        image: str = "filepath",
        caption: str = "title",
        split: str | None = None,
        sep: str | None = None,
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        if sep is not None and len(sep) != 1:
            raise UsageError(f"data.source.sep must be one character, got {sep!r}")
        self.csv = Path(csv).expanduser()
        super().__init__(self.csv.parent if root is None else root, name or self.csv.stem, provenance)
        self.tables = {"validation": validation_csv, "test": test_csv}
        self.image, self.caption, self.split, self.sep = image, caption, split, sep

    def records(self, split: str) -> Sequence[Record]:
        found = self._read(self.csv, "data.source.csv", self.split, split)
        table = self.tables.get(split)
        if table is None:
            return found
        option = f"data.source.{split}_csv"
        if found:
            raise UsageError(f"{option} must be left out if {self.csv} already marks {split} rows, got {table}")
        return self._read(Path(table).expanduser(), option, None, None)

    def _read(self, path: Path, option: str, column: str | None, wanted: str | None) -> list[Record]:
        """The rows of a split; all of them where ``wanted`` is ``None``."""
        with existing(path, option, "file").open(newline="", encoding="utf-8-sig") as stream:
            try:
                sep = self.sep or ("\t" if "\t" in stream.readline() else ",")
                stream.seek(0)
                reader = csv.DictReader(stream, delimiter=sep, strict=True)
                names = list(reader.fieldnames or [])
                if not names:
                    raise UsageError(f"{option} must be a table in UTF-8 with a header, got {path}, which is empty")
                for need, setting in ((self.image, "image"), (self.caption, "caption"), (column, "split")):
                    if need is not None and need not in names:
                        raise UsageError(
                            f"data.source.{setting} must name a column of {path}, got {need!r} of {', '.join(names)}"
                        )
                if column is None and "split" in names:
                    column = "split"
                found = []
                for row in reader:
                    where = f"line {reader.line_num} of {path}"
                    if None in row:  # an unquoted comma would cut captions short without a word
                        raise UsageError(
                            f"{option}: every row must have the {len(names)} fields of the header, {where} has more"
                        )
                    if wanted is None or wanted == self._split(row, column, where):
                        picture = text_at(row, self.image, where, option)
                        found.append(Record(picture, text_at(row, self.caption, where, option)))
                return found
            except (UnicodeDecodeError, csv.Error) as error:
                raise UsageError(f"{option} must be a table in UTF-8 with a header, got {path} ({error})") from error

    @staticmethod
    def _split(row: dict[str, str], column: str | None, where: str) -> str:
        if column is None:
            return "train"
        value = (row[column] or "").strip()
        if value.lower() not in SPLIT_NAMES:
            raise UsageError(
                f"data.source.split must name a column whose values are some of {', '.join(SPLIT_NAMES)}, "
                f"{where} holds {value!r}"
            )
        return SPLIT_NAMES[value.lower()]
