"""Ranks and recall of retrieval in both directions, from the whole score matrix or streamed over tiles of it."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from shared.errors import RunError, UsageError

Ties = Literal["index", "optimistic", "pessimistic"]
"""Where equal scores stand: by index of the item, or behind, or before the true item."""

TopK = (1, 5, 10)


class Positions(NamedTuple):
    """Positions of the true items, counted from 0.

    Attributes:
        image_to_text: ``(images,)``: of the best of an image's own texts among all texts.
        text_to_image: ``(texts,)``: of a text's own image among all images.
    """

    image_to_text: Tensor
    text_to_image: Tensor


def check_owner(owner: Tensor, images: int) -> None:
    """Refuse a table of owners that does not give every text an image and every image a text.

    Raises:
        UsageError: Says which.
    """
    if not images or not len(owner):
        raise UsageError(f"retrieval needs at least one image and one text, got {images} and {len(owner)}")
    if owner.min() < 0 or owner.max() >= images:
        raise UsageError(f"owner must lie in 0..{images - 1}, got {int(owner.min())}..{int(owner.max())}")
    without = torch.bincount(owner, minlength=images) == 0
    if without.any():
        raise UsageError(f"every image must own a text, but image {int(without.nonzero()[0])} has none")


def count_before(scores: Tensor, true: Tensor, own: Tensor, items: Tensor, place: Tensor, ties: Ties) -> Tensor:
    """How many of these items stand before the true item of each query.

    Args:
        scores: ``(Q, M)``.
        true: ``(Q, 1)`` scores of the true items.
        own: ``(Q, M)``, true where an item is the query's own, which never stands in the way.
        items: ``(M,)`` indices of the items.
        place: ``(Q, 1)`` indices of the true items.
        ties: The rule for equal scores.
    """
    before = (scores > true) & ~own
    if ties != "optimistic":
        equal = (scores == true) & ~own
        before |= equal if ties == "pessimistic" else equal & (items[None] < place)
    return before.sum(1)


def streamed_positions(
    tile: Callable[[slice, slice], Tensor],
    owner: Tensor,
    images: int,
    tile_shape: tuple[int, int] = (1024, 1024),
    ties: Ties = "index",
) -> Positions:
    """Positions of the true items where the score matrix is made tile by tile and never held.

    Tiles with a true pair are made twice: once for the scores of the true pairs, then to count what beats them. Both
    times with the same slices, so a score equals itself.

    Args:
        tile: From a slice of the images and one of the texts to their scores, ``(rows, columns)``.
        owner: ``(texts,)`` index of the image that each text belongs to; an image may own several.
        images: Number of images.
        tile_shape: Images and texts of a tile.
        ties: The rule for equal scores. With ``index`` the item of smaller index stands first, so a constant score does
            not count as perfect.

    Raises:
        UsageError: The owners do not fit, or the rule is unknown.
        RunError: A score is NaN.
    """
    if ties not in get_args(Ties):
        raise UsageError(f"ties must be one of {', '.join(get_args(Ties))}, got {ties!r}")
    owner = owner.cpu().long()
    texts = len(owner)
    check_owner(owner, images)
    blocks = [
        (slice(i, min(i + tile_shape[0], images)), slice(j, min(j + tile_shape[1], texts)))
        for i in range(0, images, tile_shape[0])
        for j in range(0, texts, tile_shape[1])
    ]

    def scores_of(rows: slice, columns: slice) -> Tensor:
        scores = tile(rows, columns)
        if scores.isnan().any():
            raise RunError(f"a score is not a number, among images {rows.start}.. and texts {columns.start}..")
        return scores

    text_ids, image_ids = torch.arange(texts), torch.arange(images)
    of_text: Tensor | None = None  # (texts,) score of the true image
    for rows, columns in blocks:
        inside = (owner[columns] >= rows.start) & (owner[columns] < rows.stop)
        if not inside.any():
            continue
        scores = scores_of(rows, columns)
        of_text = scores.new_empty(texts, device="cpu") if of_text is None else of_text
        t = text_ids[columns][inside]
        of_text[t] = scores[(owner[t] - rows.start).to(scores.device), (t - columns.start).to(scores.device)].cpu()
    assert of_text is not None  # every image owns a text
    # The best of each image's own texts, the first of them where some are equal.
    by_image = np.lexsort((text_ids.numpy(), -of_text.double().numpy(), owner.numpy()))
    best_place = torch.from_numpy(by_image[np.unique(owner.numpy()[by_image], return_index=True)[1]])
    best = of_text[best_place]
    i2t, t2i = torch.zeros(images, dtype=torch.long), torch.zeros(texts, dtype=torch.long)
    for rows, columns in blocks:
        scores = scores_of(rows, columns)
        own = (owner[columns][None] == image_ids[rows][:, None]).to(scores.device)
        i2t[rows] += count_before(
            scores,
            best[rows, None].to(scores.device),
            own,
            text_ids[columns].to(scores.device),
            best_place[rows, None].to(scores.device),
            ties,
        ).cpu()
        t2i[columns] += count_before(
            scores.T,
            of_text[columns, None].to(scores.device),
            own.T,
            image_ids[rows].to(scores.device),
            owner[columns, None].to(scores.device),
            ties,
        ).cpu()
    return Positions(i2t, t2i)


def positions(scores: Tensor, owner: Tensor | None = None, ties: Ties = "index") -> Positions:
    """Positions of the true items in a whole matrix.

    Args:
        scores: ``(images, texts)``.
        owner: ``(texts,)`` index of each text's image; ``None``: text ``i`` belongs to image ``i``.
        ties: The rule for equal scores, see :func:`streamed_positions`.

    Example:
        >>> positions(-torch.eye(3)).image_to_text.tolist()
        [2, 2, 2]
    """
    images, texts = scores.shape
    owner = torch.arange(texts) if owner is None else owner
    return streamed_positions(lambda rows, columns: scores[rows, columns], owner, images, ties=ties)


def positions_in_order(order: Tensor, true: Tensor) -> Tensor:
    """``(Q,)`` positions of true items in orders of items, best first, as reranking gives them.

    Args:
        order: ``(Q, M)`` indices of items.
        true: ``(Q,)`` index of each query's item, or ``(Q, C)`` of several, of which the best counts.

    Example:
        >>> positions_in_order(torch.tensor([[2, 0, 1]]), torch.tensor([1])).tolist()
        [2]
    """
    true = true[:, None] if true.ndim == 1 else true
    hit = (order[:, :, None] == true[:, None]).any(2)
    return hit.int().argmax(1)


def recall_at(found: Tensor, k: int) -> float:
    """Share of the positions that are below ``k``."""
    return float((found < k).double().mean())


def retrieval_scores(found: Tensor, top: Sequence[int] = TopK) -> dict[str, float]:
    """Recall at each ``k``, mean and median rank (counted from 1; the median is rounded down) of positions.

    Example:
        >>> retrieval_scores(torch.tensor([0, 0, 7, 1]), top=(1, 5))
        {'r1': 0.5, 'r5': 0.75, 'mean_rank': 3.0, 'median_rank': 1.0}
    """
    recalls = {f"r{k}": recall_at(found, k) for k in top}
    median = float(np.floor(np.median(found.numpy()))) + 1
    return recalls | {"mean_rank": float(found.double().mean()) + 1, "median_rank": median}


def recall_by_chance(items: int, k: int, own: int = 1) -> float:
    """Recall at ``k`` of random scores: the chance that one of ``own`` true items is among ``k`` of all.

    Example:
        >>> round(recall_by_chance(100, 5), 6), round(recall_by_chance(25, 1, own=5), 6)
        (0.05, 0.2)
    """
    missed = 1.0
    for drawn in range(min(k, items)):
        missed *= max(0, items - own - drawn) / (items - drawn)
    return 1 - missed


def recall_ratio_interval(
    found: Tensor,
    other: Tensor,
    k: int,
    groups: Tensor | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How many times as high one recall is as another of the same queries, with a paired bootstrap interval.

    A query counts in both recalls or in none of a resample. A resample in which neither finds anything counts as a
    ratio of 1, one in which only the other does not, as infinite.

    Args:
        found: ``(Q,)`` positions of the true items in one ranking.
        other: ``(Q,)`` in the other, in the same order of the queries.
        k: Of the recall.
        groups: ``(Q,)`` ids of what is resampled as a whole, such as the image of each caption; ``None``: queries.
        confidence: Coverage of the interval, in (0, 1).
        resamples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        The ratio and the ends of its percentile interval.

    Raises:
        UsageError: The rankings are of different queries, or of none.

    Example:
        >>> recall_ratio_interval(torch.tensor([0, 0, 0, 5]), torch.tensor([0, 3, 3, 3]), 1)[0]
        3.0
    """
    if found.shape != other.shape or not len(found):
        raise UsageError(f"both rankings must be of the same queries, got {len(found)} and {len(other)}")
    hits = torch.stack([found < k, other < k], 1).double().cpu().numpy()
    ids = np.arange(len(hits)) if groups is None else np.unique(groups.cpu().numpy(), return_inverse=True)[1]
    per_group = np.zeros((int(ids.max()) + 1, 2))
    np.add.at(per_group, ids, hits)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(per_group), np.full(len(per_group), 1 / len(per_group)), size=resamples) @ per_group
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    # Infinite ratios are values like others: the ends are order statistics, without interpolation.
    low, high = np.quantile(_ratio(drawn), tails, method="nearest")
    return float(_ratio(hits.sum(0, keepdims=True))[0]), float(low), float(high)


def _ratio(counts: np.ndarray) -> np.ndarray:
    above, below = counts[:, 0], counts[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above == 0) & (below == 0), 1.0, above / below)
