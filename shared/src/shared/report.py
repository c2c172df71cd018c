"""One self-contained ``report.html`` per run: no script, no request, every picture inside the file."""

from __future__ import annotations

import html
import io
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import quote

from shared.atomic import write_text
from shared.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Provenance = Literal["real", "derived", "synthetic"]
"""Where the data of a number come from: measured, made from measured data, or generated."""
Pretrained = Literal["none", "self", "file"]
"""Where training started: random weights, weights this project made, or a file of the user."""

_OPTION = re.compile(r"(?<!\S)--?\w[\w.]*")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_CAUTION = {
    "real": "",
    "derived": "Measured on data derived from real data: not comparable with published results.",
    "synthetic": "Measured on synthetic data: it shows that the program works, it is no scientific result.",
}


@dataclass
class Report:
    """Collects the parts of a report in reading order; every method returns the report, so that calls can be chained.

    All text is escaped: nothing that is passed in can become markup.

    Attributes:
        title: Heading of the page.
        subtitle: One line below it.
    """

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list, init=False, repr=False)

    def headline(
        self,
        label: str,
        value: float | str,
        *,
        provenance: Provenance,
        pretrained: Pretrained,
        interval: tuple[float, float] | None = None,
        note: str = "",
    ) -> Report:
        """The one number of the run, with badges that say what it was measured on and where training started.

        Args:
            label: What the number is, such as ``macro-F1 on the pooled test set``.
            value: The number, or text that already holds it.
            provenance: Of the data that it was measured on; derived and synthetic data add a sentence of caution.
            pretrained: Where the weights came from.
            interval: Ends of its 95 % confidence interval.
            note: A sentence of context.

        Raises:
            UsageError: ``provenance`` or ``pretrained`` is none of the known words.
        """
        if pretrained not in get_args(Pretrained):
            raise UsageError(f"pretrained must be none, self or file, got {pretrained!r}")
        badges = f'{_badge(provenance)} <span class="badge">pretrained: {pretrained}</span>'
        bounds = "" if interval is None else f"<small>95 % CI {_cell(interval[0])} to {_cell(interval[1])}</small>"
        sentences = " ".join(filter(None, (note, _CAUTION[provenance])))
        self._parts.append(
            f'<section class="headline"><p class="label">{_text(label)}</p>'
            f'<p class="value">{_cell(value)}{bounds}</p><p class="badges">{badges}</p>'
            + (f"<p>{_text(sentences)}</p>" if sentences else "")
            + "</section>"
        )
        return self

    def section(self, title: str, prose: str = "") -> Report:
        """A heading, and below it the paragraphs of ``prose``, which blank lines separate."""
        self._parts.append(f"<h2>{_text(title)}</h2>")
        return self.prose(prose)

    def prose(self, text: str) -> Report:
        """Paragraphs, separated by blank lines."""
        self._parts += [f"<p>{_text(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]
        return self

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        caption: str = "",
        provenance: Provenance | None = None,
    ) -> Report:
        """A table; columns of numbers are right-aligned.

        Floating point numbers up to 1, as scores are, have four decimals; larger ones four significant digits.

        Args:
            columns: Names of the columns.
            rows: As many cells each as there are columns; ``None`` is a dash.
            caption: A sentence above it.
            provenance: Of the data that its numbers were measured on, shown as a badge beside the caption.

        Raises:
            UsageError: A row has too few or too many cells, or ``provenance`` is none of the known words.
        """
        lines = list(rows)
        for number, line in enumerate(lines, 1):
            if len(line) != len(columns):
                raise UsageError(f"row {number} of a table needs {len(columns)} cells, one per column, got {len(line)}")
        sides = [
            ' class="number"' if lines and all(_is_number(line[place]) for line in lines) else ""
            for place in range(len(columns))
        ]
        head = "".join(f"<th{side}>{_text(name)}</th>" for side, name in zip(sides, columns, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{side}>{_cell(cell)}</td>" for side, cell in zip(sides, line, strict=True)) + "</tr>"
            for line in lines
        )
        title = " ".join(filter(None, (_text(caption), _badge(provenance) if provenance else "")))
        self._parts.append(
            '<div class="scroll"><table>'
            + (f"<caption>{title}</caption>" if title else "")
            + f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        return self

    def facts(self, facts: Mapping[str, object]) -> Report:
        """Names with their values, one below the other."""
        pairs = "".join(f"<dt>{_text(name)}</dt><dd>{_cell(value)}</dd>" for name, value in facts.items())
        self._parts.append(f"<dl>{pairs}</dl>")
        return self

    def figure(self, picture: Figure | str | Path, caption: str = "", *, alt: str = "") -> Report:
        """A picture with its caption.

        Args:
            picture: A matplotlib figure, or the path of a PNG or SVG file.
            caption: A sentence below it.
            alt: What a reader who cannot see it should know; the caption if empty.

        Raises:
            UsageError: The file is missing or neither PNG nor SVG.
        """
        data = _file_bytes(Path(picture)) if isinstance(picture, str | Path) else _drawn(picture)
        kind = "png" if data.startswith(_PNG) else "svg+xml"
        uri = f"data:image/{kind};base64,{b64encode(data).decode()}"
        below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><div><img src="{uri}" alt="{_text(alt or caption)}"{_width(data)}></div>{below}</figure>'
        )
        return self

    def thumbnails(self, pictures: Sequence[tuple[bytes, str, bool]]) -> Report:
        """Small pictures side by side, as many as the page is wide, with a line below each.

        Args:
            pictures: Content of a JPEG or PNG file, the line, and whether the picture is marked by a frame.

        Raises:
            UsageError: A picture is neither JPEG nor PNG.
        """
        cells = []
        for data, line, marked in pictures:
            if not data.startswith((_PNG, _JPEG)):
                raise UsageError("thumbnails: a picture must be JPEG or PNG, got other content")
            kind = "png" if data.startswith(_PNG) else "jpeg"
            uri = f"data:image/{kind};base64,{b64encode(data).decode()}"
            frame = ' class="marked"' if marked else ""
            cells.append(f'<li{frame}><img src="{uri}" alt="{_text(line)}"><span>{_text(line)}</span></li>')
        self._parts.append(f'<ul class="thumbnails">{"".join(cells)}</ul>')
        return self

    def shaded(self, words: Sequence[tuple[str, float]]) -> Report:
        """A text whose words are the darker the larger their numbers; negative ones are not shaded.

        Args:
            words: Each word with its number, which shows under the pointer.
        """
        largest = max((value for _, value in words), default=0.0)
        spans = [
            f'<span title="{value:.4f}" style="background:rgba(0,114,178,{max(0.0, value) / largest * 0.55:.2f})">'
            f"{_text(word)}</span>"
            if largest > 0
            else _text(word)
            for word, value in words
        ]
        self._parts.append(f'<p class="shaded">{" ".join(spans)}</p>')
        return self

    def code(self, text: str) -> Report:
        """A verbatim block; no line breaks within the name of an option."""
        whole = _OPTION.sub(r"<span>\g<0></span>", _text(text))
        self._parts.append(f"<pre><code>{whole}</code></pre>")
        return self

    def link(self, text: str, path: str) -> Report:
        """A link to a file, by its path relative to the page; it cannot be an address of another machine."""
        self._parts.append(f'<p><a href="{quote(path.lstrip("/"))}">{_text(text)}</a></p>')
        return self

    def reproduce(self, command: str, *, versions: Mapping[str, str], seconds: float, **facts: object) -> Report:
        """How to get the same result again: the exact command, the versions, the wall time and other ``facts``."""
        self.section("How to reproduce").code(command)
        return self.facts({"wall time": duration(seconds), **facts, **versions})

    def render(self) -> str:
        """The page as text."""
        return _PAGE.substitute(title=_text(self.title), subtitle=_text(self.subtitle), body="\n".join(self._parts))

    def write(self, path: str | Path) -> Path:
        """Write the page, creating its folder; returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.render())
        return path


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: ``4.2 s``, ``3 min 12 s``, ``5 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _cell(value: object) -> str:
    """A value as a reader wants it, escaped."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        size = abs(value)
        if 1e-3 <= size <= 1 or size == 0:
            return f"{value:.4f}"
        return f"{value:,.0f}" if 1e4 <= size < 1e15 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return _text(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _badge(provenance: Provenance) -> str:
    if provenance not in get_args(Provenance):
        raise UsageError(f"provenance must be real, derived or synthetic, got {provenance!r}")
    return f'<span class="badge {provenance}">{provenance} data</span>'


def _file_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"figure: picture must be an existing file, got {path}")
    data = path.read_bytes()
    if not data.startswith(_PNG) and b"<svg" not in data[:1000]:
        raise UsageError(f"figure: picture must be a PNG or SVG file, got {path}")
    return data


def _drawn(figure: Figure) -> bytes:
    from shared.plots import SCREEN_DPI

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SCREEN_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _width(data: bytes) -> str:
    """A PNG's width at 100 px per inch, so that letters have one size in all pictures whatever their resolution."""
    at = data.find(b"pHYs", 0, 1000)
    if not data.startswith(_PNG) or at < 0:
        return ""
    pixels = int.from_bytes(data[16:20])
    per_metre = int.from_bytes(data[at + 4 : at + 8])
    return f' width="{round(pixels / (per_metre * 0.0254) * 100)}"'


# The content security policy makes "no request leaves the machine" a promise that the browser keeps.
_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root {
  --page: #ffffff; --ink: #1d1f21; --quiet: #62676d; --line: #dfe2e5; --panel: #f5f6f7;
  --real: #00694b; --derived: #8a5300; --synthetic: #a33b00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181a; --ink: #e4e6e8; --quiet: #9aa0a6; --line: #34383c; --panel: #1f2225;
    --real: #4cc9a0; --derived: #e5b04a; --synthetic: #f08d55;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 47.5rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word;
}
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
h1 + p { margin: .35rem 0 0; color: var(--quiet); }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.2rem; line-height: 1.3; }
p { margin: .75rem 0; max-width: 42rem; }
.headline { margin: 2rem 0; padding: 1.1rem 1.3rem; border-radius: 8px; background: var(--panel); }
.headline p { margin: .45rem 0 0; }
.headline .label { margin: 0; color: var(--quiet); }
.headline .value {
  display: flex; flex-wrap: wrap; align-items: baseline; column-gap: 1rem;
  margin: 0; font-size: 2.6rem; font-weight: 650; line-height: 1.25;
}
.headline .value small { font-size: 1rem; font-weight: 400; line-height: 1.4; color: var(--quiet); }
a { color: inherit; }
.badge {
  display: inline-block; padding: .05rem .6rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: .8rem; font-weight: 600; white-space: nowrap; color: var(--quiet);
}
.badge.real { color: var(--real); }
.badge.derived { color: var(--derived); }
.badge.synthetic { color: var(--synthetic); }
.scroll { margin: 1.25rem 0; overflow-x: auto; }
table { border-collapse: collapse; min-width: 60%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: .5rem; text-align: left; color: var(--quiet); }
th, td { padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { font-weight: 600; vertical-align: bottom; }
th.number, td.number { padding: .38rem .8rem; text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 1.5rem 0; }
figure div { overflow-x: auto; border-radius: 6px; }
figure img { display: block; max-width: max(100%, 30rem); height: auto; background: #ffffff; }
figcaption { margin-top: .5rem; font-size: .92rem; color: var(--quiet); }
.shaded span { padding: .1rem .15rem; border-radius: 3px; }
.thumbnails {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .75rem; margin: 1rem 0; padding: 0;
  list-style: none; font-size: .8rem; line-height: 1.35;
}
.thumbnails li { padding: .3rem; border: 2px solid transparent; border-radius: 6px; background: var(--panel); }
.thumbnails li.marked { border-color: var(--real); }
.thumbnails img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; margin-bottom: .3rem; }
pre {
  margin: 1rem 0; padding: .8rem 1rem; border-radius: 6px; background: var(--panel);
  white-space: pre-wrap; overflow-wrap: anywhere;
}
pre span { white-space: nowrap; }
code { font: .88rem/1.5 ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1.5rem; font-size: .92rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media print { .headline, pre { border: 1px solid var(--line); } }
</style>
</head>
<body>
<header><h1>$title</h1><p>$subtitle</p></header>
<main>
$body
</main>
</body>
</html>
""")
