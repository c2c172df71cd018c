import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finelip.sources import json_files
from finelip.sources.json_files import json_file, json_lines, json_list, text_at
from shared.errors import UsageError


@settings(max_examples=50)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.lists(st.integers()), max_size=3), max_size=5),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    read=st.integers(1, 40),
)
def test_a_list_is_read_as_json_reads_it(
    values: list[dict[str, Any]], ascii_only: bool, indent: int | None, read: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-list.json"
    content = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    try:
        content.decode()
    except UnicodeDecodeError:
        return  # a lone half of a pair is no text
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_READ", read)
        elements = list(json_list(path))
    assert [element.value for element in elements] == values
    assert [json.loads(content[element.start : element.stop]) for element in elements] == values


def test_a_long_list_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    count = 15_000
    with path.open("w") as stream:
        stream.write("[")
        stream.writelines(
            ("," if number else "") + json.dumps({"id": number, "text": f"{number} " * 100}) for number in range(count)
        )
        stream.write("]")
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    assert sum(1 for _ in json_list(path)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # two or three windows


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "does not begin with one"),
        (b'{"a": 1}', "does not begin with one"),
        (b'[{"a": 1}', "is cut short"),
        (b'[{"a": 1},', "is cut short"),
        (b'[{"a": 1} {"a": 2}]', "has no comma after element 0"),
        (b'[{"a": 1}, 7]', "has none at element 1"),
        (b'[{"a": 1}, {"a": tru}]', "cannot be read at element 1"),
        (b'[{"a": "x', "cannot be read at element 0"),
        (b'[{"a": 1}] more', "goes on after the list"),
        (b'[{"a": "\xff"}]', "is not in UTF-8"),
    ],
)
def test_a_broken_list_is_told_in_one_sentence(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"x.y: a.json must be a JSON list of objects, {path} {what}"):
        list(json_list(path, "x.y"))


def test_a_broken_list_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_READ", 64)
    monkeypatch.setattr(json_files, "_LONGEST", 256)
    path = tmp_path / "a.json"
    path.write_text('[{"a": "' + "x" * 100_000)
    with pytest.raises(UsageError, match="cannot be read at element 0"):
        list(json_list(path))


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"b": "ü"}\n', encoding="utf-8")
    assert list(json_lines(path)) == [(f"line 1 of {path}", {"a": 1}), (f"line 3 of {path}", {"b": "ü"})]
    for content, what in (
        (b'{"a": 1}\nno\n', "must be JSON in UTF-8, line 2"),
        (b"[1]", "must be a JSON object, line 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=rf"data.source.root: every line {what} of {path}"):
            list(json_lines(path))
    with pytest.raises(UsageError, match=r"data.source.root must be an existing file"):
        list(json_lines(tmp_path / "none"))


def test_one_value(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    assert json_file(path) == [1, 2]
    path.write_text("[1, 2")
    with pytest.raises(UsageError, match=r"data.source.root: a.json must be JSON in UTF-8"):
        json_file(path)


def test_texts() -> None:
    assert text_at({"a": " x\n"}, "a", "it") == "x"
    with pytest.raises(UsageError, match="every record must have a text 'a', it has only 'b'"):
        text_at({"b": "x"}, "a", "it")
    with pytest.raises(UsageError, match="every record must have a text 'a', it has 3"):
        text_at({"a": 3}, "a", "it")
    with pytest.raises(UsageError, match="every 'a' must hold text, that of it is empty"):
        text_at({"a": " \n"}, "a", "it")
