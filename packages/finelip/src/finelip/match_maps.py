"""Match maps as pictures: where in the picture each word was met."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, image_transform
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finelip.finelip import FineLIP
from finelip.matching import (
    Unit,
    Word,
    contrasts,
    cosines,
    most_telling,
    relevance,
    sentences_of,
    word_maps,
    words_of,
)
from finelip.occlusion import interplay
from finelip.scores import fuse_scores
from finelip.tokenizer import LongTokenizer
from shared.plots import gallery, save
from shared.report import Report

SIDE = 240
"""Pixels of a map in a picture."""
COLOUR_MAP = "magma"
LEAST_MET = 0.01
"""Share of the local score below which words and patches are said to have next to none of it among themselves."""
LONG = 22
"""Letters of a sentence above a picture."""

Kind = Literal["occlusion", "score", "cosine"]


def displayed(image: Tensor, side: int = SIDE) -> Tensor:
    """``(side, side, 3)`` in [0, 1] of a ``(3, S, S)`` normalised image."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    wide = F.interpolate((image * std + mean)[None], (side, side), mode="bicubic", align_corners=False)[0]
    return wide.clamp(0, 1).permute(1, 2, 0)


def overlay(picture: Tensor, heat: Tensor, low: float, high: float) -> Tensor:
    """A map in colour over a grey picture; where it is low the picture stays dark, where it is high it glows.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        heat: ``(g, g)``.
        low: Value of the darkest colour.
        high: Of the brightest.
    """
    from matplotlib import colormaps

    level = ((heat - low) / max(high - low, 1e-12)).clamp(0, 1)
    smooth = F.interpolate(level[None, None], picture.shape[:2], mode="bilinear", align_corners=False)[0, 0]
    colour = torch.from_numpy(colormaps[COLOUR_MAP](smooth.numpy())[..., :3]).float()
    grey = picture.mean(2, keepdim=True)
    return (0.45 * grey + 0.75 * colour).clamp(0, 1)


def add_match_maps(
    report: Report,
    model: FineLIP,
    picture: Image.Image,
    text: str,
    file: Path,
    words: Sequence[str] = (),
    count: int = 11,
    kind: Kind = "occlusion",
    unit: Unit = "word",
) -> Path:
    """Draw the maps of the words that matter most (or of those asked for), and add text, scores and maps to a page.

    Args:
        report: The page.
        model: In evaluation mode, on the CPU.
        picture: In RGB.
        text: Its text, or another one.
        file: The picture to write.
        words: Words to draw; none: the most telling ones. Sentences are drawn that hold one of them.
        count: How many of those.
        kind: ``occlusion``: :func:`finelip.occlusion.interplay`, each map on its own scale. ``score``: parts of the
            local score, all maps on one scale. ``cosine``: cosines of the tokens before refinement, less their mean
            over the words, likewise.
        unit: What a map is of.

    Raises:
        UsageError: The image set depends on the text, and ``kind`` is not ``occlusion``.
    """
    image = image_transform(model.image_size, is_train=False)(picture)
    ids, lengths, _ = LongTokenizer(model.context_length)(text)
    length = int(lengths)
    found = (words_of if unit == "word" else sentences_of)(ids[0], length)
    with torch.no_grad():
        seen_set, read_set = model.encode_image(image[None]), model.encode_text(ids[:, :length])
        coarse = (seen_set.vector @ read_set.vector.T).squeeze()
        local = model.local_scores(*(seen_set.tokens, read_set.tokens, read_set.mask)).squeeze()
    facts = {
        "global score": f"{float(coarse):.3f}",
        "local score": f"{float(local):.3f}",
        "fused score": f"{float(fuse_scores(coarse, local, model.alpha)):.3f}",
    }
    if kind == "occlusion":
        _, drops, maps = interplay(model, image, ids[0], length, [each.slots for each in found])
        shading, weights = drops.tolist(), maps.flatten(1).amax(1).tolist() if len(maps) else []
        told = (
            f"what hiding a part of the picture takes from the fused score, with the {unit} more than without it. Each "
            "map has its own scale, from nothing to the number above it."
        )
    else:
        parts = relevance(model, image, ids[0], length)
        shading = [float(parts[each.slots].sum()) for each in found]
        met = float(parts[:-1, 1:].sum())
        facts["among words and patches"] = f"{met:.3f} of {float(local):.3f}"
        if kind == "score":
            maps = word_maps(parts, found)
            weights = maps.sum((1, 2)).tolist()
            told = "parts of the local score, all on one scale."
            if met <= LEAST_MET * float(local):
                told += " Class and end token, picture and text as wholes, win next to all of its matches."
        else:
            maps = contrasts(word_maps(cosines(model, image, ids[0], length), found, "cosine"))
            weights = maps.flatten(1).std(1).tolist()
            told = "cosines with each patch before refinement, less their mean over all, all on one scale."
    chosen = asked_for(found, words) or most_telling(weights, found, count)
    maps = maps[chosen]
    seen = displayed(image)
    low, high = (min(float(maps.min()), 0.0), float(maps.max())) if len(maps) else (0.0, 1.0)
    scales = [(0.0, float(heat.max())) if kind == "occlusion" else (low, high) for heat in maps]
    pictures = [seen, *(overlay(seen, heat, *scale) for heat, scale in zip(maps, scales, strict=True))]
    titles = ["picture"]
    for n, (_, top) in zip(chosen, scales, strict=True):
        name = found[n].text if len(found[n].text) <= LONG else found[n].text[: LONG - 1] + "…"
        titles.append(f"{name}  {top:.3f}" if kind == "occlusion" else name)
    save(gallery([each.numpy() for each in pictures], titles, columns=4 if unit == "word" else 3), file)
    report.shaded([(each.text, value) for each, value in zip(found, shading, strict=True)])
    report.facts(facts)
    report.figure(file, f"Maps of {unit}s over the picture: {told}")
    return file


def asked_for(found: Sequence[Word], words: Sequence[str]) -> list[int]:
    """Positions of the words that are asked for, or of the sentences that hold one.

    Example:
        >>> asked_for([Word("a red disc .", slice(1, 5)), Word("two bars", slice(5, 7))], ["Bars"])
        [1]
    """
    wanted = {word.lower() for word in words}
    return [n for n, each in enumerate(found) if wanted & {each.text, *each.text.split()}]
