"""What a search prints and draws: tables for a terminal, tables and thumbnails for a page."""

import io
import math
from typing import Any

import torch
from PIL import Image

from finelip.finelip import FineLIP, ImageSet, TextSet
from finelip.index import Index
from finelip.retrieval import Hits, Scored, Truth, search, wide
from shared.report import Report

SHORT = 100
"""Letters of a text in a table."""


def told_mode(options: dict[str, Any]) -> str:
    """How was searched, in words."""
    if options["mode"] == "rerank":
        return f"the best {options['rerank_top']} by global score in the order of the fused one"
    return f"by {options['mode']} score"


def short(text: str) -> str:
    """A text on one line of a terminal.

    Example:
        >>> short("a red disc")
        'a red disc'
    """
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def number(value: float) -> str:
    """A score, or a dash where none was made."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def images_table(index: Index, hits: Hits) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what a text found."""
    names = index.names("images")
    return ["picture", "rank", "global", "fused"], [
        [names[row], str(rank), number(coarse), number(fused)]
        for rank, (row, coarse, fused) in enumerate(zip(*hits, strict=True), 1)
    ]


def texts_table(index: Index, hits: Hits) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what a picture found."""
    captions = index.about["captions"]
    return ["text", "rank", "global", "fused"], [
        [short(captions[row]), str(rank), number(coarse), number(fused)]
        for rank, (row, coarse, fused) in enumerate(zip(*hits, strict=True), 1)
    ]


def scored_rows(scored: list[Scored]) -> list[list[str]]:
    """Lines of the table of recalls as a terminal shows them."""
    return [
        [
            line.way,
            line.title,
            f"{line.value:.3f}" if line.chance is not None else f"{line.value:g}",
            "" if line.chance is None else f"{line.chance:.3f}",
        ]
        for line in scored
    ]


def add_images(report: Report, index: Index, hits: Hits, true: int | None = None) -> None:
    """The pictures that a text found, or a table where the index keeps no thumbnails."""
    names = index.names("images")
    pictures = []
    for rank, (row, coarse, fused) in enumerate(zip(*hits, strict=True), 1):
        data = index.thumbnail(row)
        score = number(coarse if math.isnan(fused) else fused)
        if data is not None:
            pictures.append((data, f"{rank}. {names[row]} · {score}", row == true))
    if pictures:
        report.thumbnails(pictures)
    else:
        report.table(*images_table(index, hits))


def add_texts(report: Report, index: Index, hits: Hits, true: set[int] | None = None) -> None:
    """The texts that a picture found, and where they are known which are its own."""
    captions, names = index.about["captions"], index.names("texts")

    def mark(row: int) -> tuple[str, ...]:
        return () if true is None else ("✓" if row in true else "",)

    rows = [
        (rank, *mark(row), number(coarse), number(fused), names[row], captions[row])
        for rank, (row, coarse, fused) in enumerate(zip(*hits, strict=True), 1)
    ]
    report.table(["rank", *(() if true is None else ("true",)), "global", "fused", "name", "text"], rows)


def add_own(
    report: Report, index: Index, model: FineLIP, truth: Truth, top: int, shown: int, options: dict[str, Any]
) -> None:
    """What some of an index's own items found, both ways; the true ones are marked."""

    def some(rows: torch.Tensor) -> list[int]:
        return rows[torch.linspace(0, len(rows) - 1, min(shown, len(rows))).long().unique()].tolist()

    for text in some(truth.texts):
        tokens, mask = index.sets("texts", [text])
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
        query = TextSet(wide(index, "texts", torch.tensor([text])), tokens, mask)
        [hits] = search(index, model, query, top=top, **options)
        report.section("Pictures for a text", index.about["captions"][text])
        add_images(report, index, hits, int(index.owner[text]))
    for image in some(truth.images):
        tokens, _ = index.sets("images", [image])
        [hits] = search(
            index, model, ImageSet(wide(index, "images", torch.tensor([image])), tokens), top=top, **options
        )
        report.section("Texts for a picture")
        data = index.thumbnail(image)
        if data is not None:
            report.thumbnails([(data, index.names("images")[image], False)])
        else:
            report.prose(index.names("images")[image])
        add_texts(report, index, hits, set((index.owner == image).nonzero()[:, 0].tolist()))


def jpeg(image: Image.Image, side: int = 240) -> bytes:
    """A picture as a small JPEG."""
    small = image.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()
