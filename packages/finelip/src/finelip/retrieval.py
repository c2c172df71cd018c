"""Search an index: by global vectors, by the fused score, or by the fused score of the best by global vectors."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from finelip.finelip import FineLIP, ImageSet, TextSet
from finelip.index import Index, exact_top
from finelip.scores import fuse_scores, global_scores
from finelip.shards import Side
from shared.errors import UsageError
from shared.metrics.retrieval import (
    Positions,
    recall_by_chance,
    retrieval_scores,
    streamed_positions,
)
from shared.threads import torch_threads

Mode = Literal["global", "fused", "rerank"]

SETS_AT_ONCE = 256
"""Sets that are read and scored at once."""
QUERIES_AT_ONCE = 64
FEW_QUERIES = 8


class Hits(NamedTuple):
    """What one query found, the best first.

    Attributes:
        rows: Rows of the index.
        coarse: Global score of each.
        fused: Fused score, where it was asked for; NaN for items that were not scored anew.
    """

    rows: list[int]
    coarse: list[float]
    fused: list[float]


def set_scores(index: Index, model: FineLIP, side: Side, query: ImageSet | TextSet, rows: Sequence[int]) -> Tensor:
    """``(n,)`` local scores of one query, a batch of one, with some items of a side."""
    parts = []
    for start in range(0, len(rows), SETS_AT_ONCE):
        tokens, mask = index.sets(side, rows[start : start + SETS_AT_ONCE])
        if isinstance(query, TextSet):
            parts.append(model.local_scores(tokens, query.tokens, query.mask)[:, 0])
        else:
            parts.append(model.local_scores(query.tokens, tokens, mask)[0])
    return torch.cat(parts) if parts else torch.zeros(0)


@torch.no_grad()
def search(
    index: Index,
    model: FineLIP,
    query: ImageSet | TextSet,
    mode: Mode = "rerank",
    top: int = 10,
    rerank_top: int = 200,
    alpha: float | None = None,
    faiss: bool = False,
) -> list[Hits]:
    """The best images for texts, or the best texts for images.

    Args:
        index: What is searched.
        model: Whose it is.
        query: Texts or images, encoded by the model.
        mode: ``global``: by cosine of global vectors. ``fused``: by the fused score of all items. ``rerank``: the
            ``rerank_top`` best by cosine in the order of their fused scores, then the others.
        top: How many to find.
        rerank_top: See ``mode``.
        alpha: Weight of the global score in the fused one; ``None``: the model's.
        faiss: Let FAISS do the first stage of ``global`` and ``rerank``.

    Raises:
        UsageError: A number is out of range, or the index holds nothing of that side.
    """
    check_numbers(top, rerank_top, alpha)
    side: Side = "images" if isinstance(query, TextSet) else "texts"
    if not index.names(side):
        raise UsageError(f"--index must hold {side} to find, got {index.folder} without any")
    alpha = model.alpha if alpha is None else alpha
    # One query is many small products, for which a second thread does nothing but wait.
    alone = mode != "fused" and len(query.vector) < FEW_QUERIES
    with torch_threads(1) if alone else nullcontext():
        return _search(index, model, query, side, mode, top, rerank_top, alpha, faiss)


def _search(
    index: Index,
    model: FineLIP,
    query: ImageSet | TextSet,
    side: Side,
    mode: Mode,
    top: int,
    rerank_top: int,
    alpha: float,
    faiss: bool,
) -> list[Hits]:
    """See :func:`search`."""
    if mode == "fused":
        coarse = index.global_scores(side, query.vector)
        first = [(torch.arange(coarse.shape[1]), row) for row in coarse]
    else:
        first = index.first_stage(side, query.vector, max(top, rerank_top) if mode == "rerank" else top, faiss)
    found = []
    for number, (rows, scores) in enumerate(first):
        one = type(query)(*(part[number : number + 1] for part in query))  # type: ignore[arg-type]
        fused = torch.full_like(scores, torch.nan)
        if mode == "global":
            order = torch.arange(len(rows))[:top]
        else:
            count = len(rows) if mode == "fused" else rerank_top
            at = rows[:count].argsort()  # equal scores stand in the order of the items
            fused[at] = fuse_scores(scores[at], set_scores(index, model, side, one, rows[at].tolist()), alpha)
            best = at[fused[at].argsort(descending=True, stable=True)]
            order = torch.cat([best, torch.arange(len(best), len(rows))])[:top]
        found.append(Hits(rows[order].tolist(), scores[order].tolist(), fused[order].tolist()))
    return found


def check_numbers(top: int, rerank_top: int, alpha: float | None) -> None:
    """Refuse numbers that make no search.

    Raises:
        UsageError: Names the option.
    """
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}")
    if rerank_top < 0:
        raise UsageError(f"--rerank_top must not be negative, got {rerank_top}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise UsageError(f"--alpha must lie in [0, 1], got {alpha}")


# ---------------------------------------------------------------------- evaluation


class Truth(NamedTuple):
    """The pairs of an index that has both sides.

    Attributes:
        images: ``(N,)`` rows of the pictures that own a text.
        texts: ``(M,)`` rows of the texts whose picture is there.
        owner: ``(M,)`` position of each text's picture among ``images``.
    """

    images: Tensor
    texts: Tensor
    owner: Tensor


def truth_of(index: Index) -> Truth | None:
    """Which text belongs to which picture, or ``None`` where the index does not tell."""
    owner = index.owner
    texts = (owner >= 0).nonzero()[:, 0]
    if not len(texts):
        return None
    images, compact = owner[texts].unique(return_inverse=True)
    return Truth(images, texts, compact)


@torch.no_grad()
def evaluate(
    index: Index,
    model: FineLIP,
    truth: Truth,
    mode: Mode = "rerank",
    rerank_top: int = 200,
    alpha: float | None = None,
    tile: tuple[int, int] = (SETS_AT_ONCE, SETS_AT_ONCE),
) -> Positions:
    """Positions of the true items both ways, among the items that have a true one; memory is that of a tile."""
    check_numbers(1, rerank_top, alpha)
    alpha = model.alpha if alpha is None else alpha
    images, texts = truth.images, truth.texts

    def coarse(rows: Tensor, columns: Tensor) -> Tensor:
        return global_scores(wide(index, "images", images[rows]), wide(index, "texts", texts[columns]))

    def fused(rows: Tensor, columns: Tensor) -> Tensor:
        image_sets, _ = index.sets("images", images[rows].tolist())
        text_sets, mask = index.sets("texts", texts[columns].tolist())
        return fuse_scores(coarse(rows, columns), model.local_scores(image_sets, text_sets, mask), alpha)

    all_images, all_texts = torch.arange(len(images)), torch.arange(len(texts))
    whole = mode == "fused" or (mode == "rerank" and rerank_top >= max(len(images), len(texts)))
    if whole or mode == "global" or rerank_top == 0:
        score = fused if whole else coarse
        return streamed_positions(
            lambda rows, columns: score(all_images[rows], all_texts[columns]), truth.owner, len(images), tile
        )
    of_image = [(truth.owner == image).nonzero()[:, 0] for image in range(len(images))]
    return Positions(
        reranked_positions(
            lambda queries: coarse(queries, all_texts),
            lambda query, items: fused(torch.tensor([query]), items)[0],
            of_image,
            rerank_top,
        ),
        reranked_positions(
            lambda queries: coarse(all_images, queries).T,
            lambda query, items: fused(items, torch.tensor([query]))[:, 0],
            list(truth.owner[:, None]),
            rerank_top,
        ),
    )


def wide(index: Index, side: Side, rows: Tensor) -> Tensor:
    """``(n, D)`` float32 global vectors of some rows."""
    return index.wide_vectors(side, rows.numpy())


def reranked_positions(
    coarse: Callable[[Tensor], Tensor],
    fused: Callable[[int, Tensor], Tensor],
    true: Sequence[Tensor],
    top: int,
) -> Tensor:
    """Positions of the best true item of each query in the order that :func:`finelip.scores.rerank` gives.

    Args:
        coarse: From ``(q,)`` queries to their ``(q, M)`` global scores.
        fused: From a query and ``(k,)`` items to their fused scores.
        true: For each query its true items.
        top: Items that are scored anew.
    """
    found = []
    for start in range(0, len(true), QUERIES_AT_ONCE):
        queries = torch.arange(start, min(start + QUERIES_AT_ONCE, len(true)))
        for query, scores in zip(queries.tolist(), coarse(queries), strict=True):
            items = exact_top(scores, top).sort().values
            order = items[fused(query, items).argsort(descending=True, stable=True)]
            places = [
                int((order == item).nonzero()) if bool((order == item).any()) else place_of(scores, item)
                for item in true[query].tolist()
            ]
            found.append(min(places))
    return torch.tensor(found)


def place_of(scores: Tensor, item: int) -> int:
    """How many items stand before one: those of higher score, and of equal score those before it."""
    own = scores[item]
    return int((scores > own).sum() + (scores[:item] == own).sum())


class Scored(NamedTuple):
    """A line of the table of recalls: the score or rank of a search, and what chance would give."""

    way: str
    name: str
    value: float
    chance: float | None

    @property
    def title(self) -> str:
        """The name as it is shown: ``R@1``, ``mean rank``."""
        return self.name.replace("_", " ") if self.chance is None else self.name.replace("r", "R@", 1)


def whole(rank: float) -> float:
    """A rank, as a whole number where it is one: a page then shows no decimals.

    Example:
        >>> whole(1.0), whole(1.5)
        (1, 1.5)
    """
    return int(rank) if rank.is_integer() else rank


def table_of(truth: Truth, found: Positions) -> list[Scored]:
    """Recalls and ranks both ways, each recall with its chance."""
    rows = []
    captions = len(truth.texts) / len(truth.images)
    for way, positions, items, own in (
        ("image to text", found.image_to_text, len(truth.texts), round(captions)),
        ("text to image", found.text_to_image, len(truth.images), 1),
    ):
        for name, value in retrieval_scores(positions).items():
            chance = recall_by_chance(items, int(name[1:]), own) if name.startswith("r") else None
            rows.append(Scored(way, name, value, chance))
    return rows
