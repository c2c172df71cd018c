"""JSON as data sets come in it: one value, one object per line, or a list that is too long to hold in memory."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from shared.data.sources import existing
from shared.errors import UsageError

_READ = 1 << 20
_LONGEST = 64 << 20


class Element(NamedTuple):
    """An object of a long list, and where its text lies in the file.

    Attributes:
        start: First byte.
        stop: Byte after the last one.
        value: The object.
    """

    start: int
    stop: int
    value: dict[str, Any]


def json_file(path: Path, option: str = "data.source.root") -> Any:
    """The value of a JSON file.

    Raises:
        UsageError: It is missing or no JSON.
    """
    found = existing(path, option, "file")
    try:
        return json.loads(found.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: {path.name} must be JSON in UTF-8, {path} is not ({error})") from error


def json_lines(path: Path, option: str = "data.source.root") -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one per line, each with what to call it in an error; blank lines are skipped.

    Raises:
        UsageError: The file is missing, or a line holds no JSON object.
    """
    with existing(path, option, "file").open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise UsageError(
                    f"{option}: every line must be JSON in UTF-8, line {number} of {path} is not ({error})"
                ) from error
            if not isinstance(value, dict):
                raise UsageError(f"{option}: every line must be a JSON object, line {number} of {path} is not")
            yield f"line {number} of {path}", value


def json_list(path: Path, option: str = "data.source.root") -> Iterator[Element]:
    """The objects of a JSON list one after the other, in bounded memory.

    Args:
        path: A file whose value is a list of objects.
        option: To name in an error.

    Yields:
        Each object, and the bytes of its text: ``json.loads(content[start:stop])`` is the object again.

    Raises:
        UsageError: The file is missing, no JSON, no list, or holds something else than objects.
    """
    with existing(path, option, "file").open("rb") as stream:
        window = _Window(stream, path, option)
        if window.character() != "[":
            raise window.refused("does not begin with one")
        window.forward(1)
        number = 0
        while True:
            character = window.character()
            if character == "]":
                window.forward(1)
                if window.character():
                    raise window.refused("goes on after the list")
                return
            if number > 0:
                if character != ",":
                    raise window.refused(f"has no comma after element {number - 1}" if character else "is cut short")
                window.forward(1)
                character = window.character()
            if character != "{":
                raise window.refused(f"has none at element {number}" if character else "is cut short")
            yield window.element(number)
            number += 1


class _Window:
    """The part of a file that is being read."""

    def __init__(self, stream: BinaryIO, path: Path, option: str) -> None:
        self._stream, self._path, self._option = stream, path, option
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scanner = json.JSONDecoder()
        self._text, self._at = "", 0
        self._position = 0  # in bytes, of the next character
        self._ended = False

    def refused(self, what: str) -> UsageError:
        return UsageError(f"{self._option}: {self._path.name} must be a JSON list of objects, {self._path} {what}")

    def character(self) -> str:
        """The next one that is no space; none at the end."""
        while True:
            stop = self._at
            while stop < len(self._text) and self._text[stop] in " \t\r\n\ufeff":
                stop += 1
            self.forward(stop - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read(_READ)

    def forward(self, characters: int) -> None:
        passed = self._text[self._at : self._at + characters]
        self._position += len(passed) if passed.isascii() else len(passed.encode())
        self._at += characters

    def element(self, number: int) -> Element:
        while True:
            try:
                value, stop = self._scanner.raw_decode(self._text, self._at)
                break
            except ValueError as error:  # perhaps because its end has not been read
                if self._ended or len(self._text) - self._at > _LONGEST:
                    raise self.refused(f"cannot be read at element {number} ({error})") from error
                self._read(max(_READ, len(self._text) - self._at))  # twice as much each time
        start = self._position
        self.forward(stop - self._at)
        return Element(start, self._position, value)

    def _read(self, size: int) -> None:
        content = self._stream.read(size)
        self._ended = not content
        try:
            fresh = self._decoder.decode(content, self._ended)
        except UnicodeDecodeError as error:
            raise self.refused(f"is not in UTF-8 ({error})") from error
        self._text, self._at = self._text[self._at :] + fresh, 0


def text_at(record: Any, key: str, where: str, option: str = "data.source.root") -> str:
    """A text of a record, without spaces around it.

    Raises:
        UsageError: The record is no object, the key is missing, its value is no text, or an empty one.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(value, str):
        raise UsageError(f"{option}: every record must have a text {key!r}, {where} has {_told(record, key)}")
    if not value.strip():
        raise UsageError(f"{option}: every {key!r} must hold text, that of {where} is empty")
    return value.strip()


def _told(record: Any, key: str) -> str:
    if not isinstance(record, Mapping):
        return f"no object but {str(record)[:40]!r}"
    return repr(record[key])[:40] if key in record else f"only {', '.join(map(repr, record)) or 'nothing'}"
