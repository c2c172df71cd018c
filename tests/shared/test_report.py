"""The report is one whole, valid, harmless file."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.plots import Curve, curves, save
from shared.report import Report, duration

HOSTILE = """<script>alert(1)</script> & "quoted' <img src="http://x.example/y.png" onerror=alert(2)> $title ${body}"""
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, their attributes and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture
def png(tmp_path: Path) -> Path:
    return save(curves({"FedSECA": Curve([0.1, 0.8])}), tmp_path / "curves.png")


@pytest.fixture
def svg(tmp_path: Path) -> Path:
    path = tmp_path / "dot.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><circle r="2"/></svg>')
    return path


def full(png: Path, svg: Path, text: str = "text") -> Report:
    return (
        Report(text, text)
        .headline(text, 0.81234, provenance="derived", pretrained="self", interval=(0.79, 0.83), note=text)
        .section(text, f"{text}\n\n{text}")
        .prose(text)
        .table([text, "F1"], [[text, 0.5], [text, None]], caption=text, provenance="synthetic")
        .figure(png, text, alt=text)
        .figure(svg, text)
        .figure(curves({text: Curve([1, 2])}), text)
        .facts({text: text})
        .code(text)
        .reproduce(text, versions={text: text}, seconds=192, seeds=text)
    )


def test_the_page_is_well_formed_and_whole(tmp_path: Path, png: Path, svg: Path) -> None:
    path = full(png, svg).write(tmp_path / "run" / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert [page.count(tag) for tag in ("html", "h1", "h2", "table", "figure", "pre", "dl")] == [1, 1, 2, 1, 3, 2, 2]
    assert page.count("script") == page.count("link") == page.count("iframe") == 0


def test_options_are_kept_in_one_piece(tmp_path: Path) -> None:
    page = (
        Report("a")
        .code("usssl fit -- --data.source A-B -x")
        .write(tmp_path / "report.html")
        .read_text(encoding="utf-8")
    )
    assert "<code>usssl fit -- <span>--data.source</span> A-B <span>-x</span></code>" in page


def test_no_request_leaves_the_machine(png: Path, svg: Path) -> None:
    text = full(png, svg).render()
    page = Page(text)
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(|//", re.search(r"<style>.*</style>", text, re.DOTALL)[0])
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_are_inside_the_file_byte_for_byte(png: Path, svg: Path) -> None:
    page = Page(full(png, svg).render())
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    kinds, contents = zip(*(source.split(";base64,") for source in sources), strict=True)
    assert kinds == ("data:image/png", "data:image/svg+xml", "data:image/png")
    assert b64decode(contents[0]) == png.read_bytes()
    assert b64decode(contents[1]) == svg.read_bytes()
    assert b64decode(contents[2]).startswith(b"\x89PNG")


@pytest.mark.parametrize("dpi", [144, 300])
def test_a_picture_is_as_wide_on_the_page_whatever_its_resolution(tmp_path: Path, dpi: int) -> None:
    path = save(curves({"a": Curve([1, 2])}), tmp_path / "a.png", dpi=dpi)
    (image,) = (attributes for tag, attributes in Page(Report("t").figure(path).render()).tags if tag == "img")
    assert int(image["width"]) == pytest.approx(720, abs=1)


def test_hostile_text_stays_text(png: Path, svg: Path) -> None:
    honest, hostile = Page(full(png, svg).render()), Page(full(png, svg, HOSTILE).render())
    strip = [(tag, sorted(attributes)) for tag, attributes in honest.tags]
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == strip
    assert "".join(hostile.words) == "".join(honest.words).replace("text", HOSTILE)
    assert {attributes["alt"] for tag, attributes in hostile.tags if tag == "img"} == {HOSTILE}


@pytest.mark.parametrize(
    ("provenance", "caution"),
    [("real", None), ("derived", "not comparable with published results"), ("synthetic", "no scientific result")],
)
def test_the_headline_says_what_it_was_measured_on(provenance: str, caution: str | None) -> None:
    text = Page(Report("t").headline("F1", 0.81234, provenance=provenance, pretrained="file").render()).text
    assert "0.8123" in text
    assert f"{provenance} data" in text
    assert "pretrained: file" in text
    assert (caution in text) if caution else ("Measured" not in text)


def test_cells_show_numbers_for_readers() -> None:
    row = [0.5, 1e-6, 12.345678, 12345.678, 1234567, True, None, "x", float("nan"), 0.0]
    text = Report("t").table([str(i) for i in range(10)], [row]).render()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert cells == ["0.5000", "1e-06", "12.35", "12,346", "1,234,567", "True", "\N{EN DASH}", "x", "nan", "0.0000"]
    sides = re.findall(r"<t[dh]( class=\"number\")?>", text)
    assert [bool(side) for side in sides] == 2 * [True, True, True, True, True, False, True, False, True, True]


def test_only_columns_of_numbers_are_right_aligned() -> None:
    text = Report("t").table(["a", "b"], iter([[1, "x"], ["y", 2]])).render()
    assert 'class="number"' not in text.split("<body>")[1]
    assert "<tbody></tbody>" in Report("t").table(["a"], []).render()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (59.96, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.6, "1 h 00 min"),
        (18420, "5 h 07 min"),
    ],
)
def test_duration_names_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    report = Report("t")
    with pytest.raises(UsageError, match=r"must be an existing file, got .*none\.png"):
        report.figure(tmp_path / "none.png")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="must be a PNG or SVG file"):
        report.figure(tmp_path / "photo.jpg")
    with pytest.raises(UsageError, match="row 2 of a table needs 2 cells, one per column, got 1"):
        report.table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(UsageError, match="provenance must be real, derived or synthetic, got 'fake'"):
        report.headline("F1", 1.0, provenance="fake", pretrained="none")
    with pytest.raises(UsageError, match="pretrained must be none, self or file, got 'real'"):
        report.headline("F1", 1.0, provenance="real", pretrained="real")
    assert Page(report.render()).count("table") == 0  # nothing half-written is left behind


def test_thumbnails_and_shaded_words_are_escaped_and_inside_the_file(png: Path) -> None:
    data = png.read_bytes()
    report = Report("Search").thumbnails([(data, HOSTILE, True), (b"\xff\xd8\xff rest", "plain", False)])
    page = Page(report.shaded([(HOSTILE, 0.5), ("negative", -1.0)]).render())
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert b64decode((sources[0] or "").removeprefix("data:image/png;base64,")) == data
    assert (sources[1] or "").startswith("data:image/jpeg;base64,")
    assert [attributes.get("class") for tag, attributes in page.tags if tag == "li"] == ["marked", None]
    styles = [attributes["style"] for tag, attributes in page.tags if tag == "span" and "style" in attributes]
    assert styles == ["background:rgba(0,114,178,0.55)", "background:rgba(0,114,178,0.00)"]
    assert "negative" in page.text
    assert page.count("script") == 0
    with pytest.raises(UsageError, match="thumbnails: a picture must be JPEG or PNG"):
        report.thumbnails([(b"<svg", "x", False)])
    assert "span" not in Page(Report("None").shaded([("a", 0.0)]).render()).text
