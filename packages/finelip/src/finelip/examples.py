"""What some captions of a run's data found, and where their words met the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from finelip.data import CaptionDataModule
from finelip.encoding import Encoder
from finelip.finelip import FineLIP
from finelip.index import exact_top
from finelip.match_maps import add_match_maps
from finelip.matching import Unit
from finelip.retrieval_page import jpeg
from finelip.sources.pairs import Pair
from shared.report import Report

GALLERY = 100
"""Pictures among which the examples search."""
QUERIES, SHOWN, MAPPED = 4, 5, 2


def readable_pairs(data: CaptionDataModule, split: str) -> tuple[list[Pair], list[Image.Image]]:
    """The first pairs with different pictures, and the pictures; those that cannot be read are left out."""
    pairs: Sequence[Pair] = data.source.pairs(split)[: data.limits[split]]
    kept: list[Pair] = []
    pictures: list[Image.Image] = []
    seen: set[int] = set()
    for index, pair in enumerate(pairs):
        if len(kept) == GALLERY:
            break
        if pair.image_id in seen:
            continue
        seen.add(pair.image_id)
        try:
            pictures.append(data.source.picture(split, index).convert("RGB"))
        except OSError:
            continue
        kept.append(pair)
    return kept, pictures


@torch.no_grad()
def add_examples(report: Report, folder: Path, model: FineLIP, data: CaptionDataModule, split: str) -> None:
    """Add a gallery of searches, and match maps of words and of sentences, to a page.

    Args:
        report: The page.
        folder: Where pictures are written.
        model: Left in evaluation mode.
        data: Of the run.
        split: ``validation`` or ``test``.
    """
    pairs, pictures = readable_pairs(data, split)
    if len(pairs) < 2:
        return
    training = model.training
    encoder = Encoder(model.eval(), data.eval_batch_size, model.text_projection.device)
    images = encoder.images(pictures)
    rows = torch.linspace(0, len(pairs) - 1, min(QUERIES, len(pairs))).long().tolist()
    texts = encoder.texts([pairs[row].caption for row in rows])
    device = model.text_projection.device
    parts = [part.to(device) for part in (*images, *texts)]
    scores = model.fused_scores(*parts).cpu()
    report.section(
        "What captions found",
        f"The {min(SHOWN, len(pairs))} best of {len(pairs)} {split} pictures by fused score; the true one has a frame.",
    )
    for place, row in enumerate(rows):
        report.prose(pairs[row].caption)
        found = exact_top(scores[:, place], SHOWN).tolist()
        report.thumbnails(
            [
                (jpeg(pictures[n]), f"{rank}. {pairs[n].name} · {float(scores[n, place]):.3f}", n == row)
                for rank, n in enumerate(found, 1)
            ]
        )
    report.section(
        "Which words met which patches",
        "The darker a word or sentence, the more it adds to the fused score of its own picture.",
    )
    model.cpu()
    for row in rows[:MAPPED]:
        for unit in get_args(Unit):
            file = folder / f"match_{unit}_{row}.png"
            add_match_maps(report, model, pictures[row], pairs[row].caption, file, count=7, unit=unit)
    model.to(device)
    model.train(training)
