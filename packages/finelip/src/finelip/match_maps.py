"""Match maps as pictures: where in the picture each word was met."""

from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, image_transform
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from finelip.finelip import FineLIP
from finelip.matching import Kind, contrasts, cosines, most_telling, relevance, word_maps, words_of
from finelip.scores import fuse_scores
from finelip.tokenizer import LongTokenizer
from shared.plots import gallery, save
from shared.report import Report

SIDE = 240
"""Pixels of a map in a picture."""
COLOUR_MAP = "magma"
LEAST_MET = 0.01
"""Share of the local score that words and patches must have among themselves to be worth a map."""


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
    kind: Kind = "score",
) -> Path:
    """Draw the maps of the words that matter most (or of those asked for), and add text, scores and maps to a page.

    Args:
        report: The page.
        model: In evaluation mode, on the CPU.
        picture: In RGB.
        text: Its text, or another one.
        file: The picture to write.
        words: Words to draw; none: the most relevant ones.
        count: How many of those.
        kind: ``score``: parts of the local score, or, where words and patches have no part in it, as ``cosine``:
            cosines of the tokens before refinement, less their mean over the words.

    Raises:
        UsageError: The image set depends on the text.
    """
    image = image_transform(model.image_size, is_train=False)(picture)
    ids, lengths, _ = LongTokenizer(model.context_length)(text)
    length = int(lengths)
    parts = relevance(model, image, ids[0], length)
    found = words_of(ids[0], length)
    per_word = [float(parts[word.slots].sum()) for word in found]
    met = float(parts[:-1, 1:].sum())
    note = ""
    if kind == "score" and met <= LEAST_MET * float(parts.sum()):
        # After training on easy data the global tokens may win every match.
        kind = "cosine"
        note = "Matches of words with patches add next to nothing to this score; the maps are cosines instead. "
    if kind == "score":
        maps = word_maps(parts, found)
        weights = maps.sum((1, 2)).tolist()
    else:
        maps = contrasts(word_maps(cosines(model, image, ids[0], length), found, "cosine"))
        weights = maps.flatten(1).std(1).tolist()
    wanted = {word.lower() for word in words}
    chosen = [n for n, word in enumerate(found) if word.text in wanted] or most_telling(weights, found, count)
    maps = maps[chosen]
    seen = displayed(image)
    low, high = (float(maps.min()), float(maps.max())) if len(maps) else (0.0, 1.0)
    pictures = [seen, *(overlay(seen, heat, min(low, 0.0), high) for heat in maps)]
    titles = ["picture", *(found[n].text for n in chosen)]
    save(gallery([each.numpy() for each in pictures], titles, columns=4), file)
    with torch.no_grad():
        seen_set, read_set = model.encode_image(image[None]), model.encode_text(ids[:, :length])
        coarse = (seen_set.vector @ read_set.vector.T).squeeze()
    local = parts.sum()
    whole = parts[:, 0].sum() + (parts[-1, 1:].sum() if model.global_tokens in ("both", "text") else 0)
    report.shaded([(word.text, value) for word, value in zip(found, per_word, strict=True)])
    report.facts(
        {
            "global score": f"{float(coarse):.3f}",
            "local score": f"{float(local):.3f}",
            "fused score": f"{float(fuse_scores(coarse, local, model.alpha)):.3f}",
            "matched by picture or text as a whole": f"{float(whole):.3f} of {float(local):.3f}",
        }
    )
    told = (
        "parts of the local score"
        if kind == "score"
        else "cosines of word and patch before refinement, less their mean over the words"
    )
    report.figure(file, f"{note}Maps of words over the picture: {told}, all on one scale.")
    return file
