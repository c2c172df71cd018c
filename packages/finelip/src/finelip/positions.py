"""Stretch a table of text positions, and read one sequence of positions from two tables."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.errors import UsageError

Strategy = Literal["kps", "linear", "random", "none"]
"""How rows beyond the kept ones come about; see :func:`stretch`."""

NEW_ROW_STD = 0.01


def stretched_length(length: int, keep: int = 20, ratio: int = 4) -> int:
    """Number of rows after stretching: ``keep + ratio (length - keep)``.

    Example:
        >>> stretched_length(77), stretched_length(77, keep=10), stretched_length(77, ratio=8)
        (248, 278, 476)
    """
    return keep + ratio * (length - keep)


def stretch(
    positions: Tensor,
    strategy: Strategy = "kps",
    keep: int = 20,
    ratio: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Lengthen a table of positions ``p`` of ``N`` rows to ``k + r (N - k)`` rows.

    ``kps`` (knowledge-preserved stretching) keeps the first ``k`` rows, which CLIP has trained well, puts ``r - 1``
    interpolated rows after each of the others, and extrapolates behind the last one:

    .. math:: q_j = p_j \;(j < k), \qquad
        q_{k + r i + s} = \tfrac{r - s}{r}\, p_{k+i} + \tfrac{s}{r}\, p_{k+i+1} \;(0 \le s < r), \qquad
        p_N := 2 p_{N-1} - p_{N-2}

    ``linear`` interpolates the whole table, as open_clip does on its own, so that the first rows change too. ``random``
    keeps the first ``k`` rows and draws all others from :math:`N(0, 0.01^2)`: positions trained from scratch. ``none``
    leaves the table as it is.

    Source: Zhang et al., "Long-CLIP", ECCV 2024, section 3.1; the FineLIP paper takes it over.

    Args:
        positions: ``(N, W)``; half precision is converted first, so that interpolated rows are not rounded.
        strategy: One of the four.
        keep: Rows that stay, ``k``.
        ratio: Rows for one, ``r``.
        generator: Of the rows that ``random`` draws.

    Returns:
        ``(k + r (N - k), W)``, or ``(N, W)`` for ``none``; float32, or float64 where the table is.

    Raises:
        UsageError: The strategy is unknown, ``keep`` is outside ``0 .. N - 2`` or ``ratio`` is less than 1.

    Example:
        >>> ramp = torch.arange(77.0)[:, None]
        >>> q = stretch(ramp)[:, 0]
        >>> q[[19, 20, 21, 24, 247]].tolist()
        [19.0, 20.0, 20.25, 21.0, 76.75]
    """
    length = len(positions)
    if strategy not in get_args(Strategy):
        raise UsageError(f"stretch must be one of {', '.join(get_args(Strategy))}, got {strategy!r}")
    p = positions.detach()
    p = p if p.dtype == torch.float64 else p.float()
    if strategy == "none":
        return p.clone()
    if not 0 <= keep <= length - 2:
        raise UsageError(f"keep must lie in 0..{length - 2} for a table of {length} positions, got {keep}")
    if ratio < 1:
        raise UsageError(f"ratio must be at least 1, got {ratio}")
    longer = stretched_length(length, keep, ratio)
    if strategy == "linear":
        return F.interpolate(p.T[None], size=longer, mode="linear", align_corners=False)[0].T.contiguous()
    if strategy == "random":
        drawn = torch.randn(longer - keep, p.shape[1], dtype=p.dtype, generator=generator)
        return torch.cat([p[:keep], NEW_ROW_STD * drawn.to(p.device)])
    after = torch.cat([p[keep + 1 :], 2 * p[-1:] - p[-2:-1]])
    share = torch.arange(ratio, dtype=p.dtype, device=p.device)[None, :, None] / ratio
    rows = (1 - share) * p[keep:, None] + share * after[:, None]
    return torch.cat([p[:keep], rows.flatten(0, 1)])


def shrink(positions: Tensor, keep: int = 20, ratio: int = 4) -> Tensor:
    """The table that ``kps`` would stretch to this one: the first ``k`` rows, and every ``r``-th of the others.

    Bit for bit the original one, if nothing was trained since; of a trained table the other rows are lost.

    Args:
        positions: ``(k + r n, W)``.
        keep: Rows that stayed, ``k``.
        ratio: Rows for one, ``r``.

    Returns:
        ``(k + n, W)``.

    Raises:
        UsageError: A table of so many rows cannot have come about so.

    Example:
        >>> shrink(stretch(torch.arange(77.0)[:, None]))[:, 0].equal(torch.arange(77.0))
        True
    """
    rest = len(positions) - keep
    if keep < 0 or ratio < 1 or rest < 2 * ratio or rest % ratio:
        raise UsageError(
            f"keep and ratio must be those that a table was stretched with, got {keep} and {ratio} for "
            f"{len(positions)} positions"
        )
    return torch.cat([positions[:keep], positions[keep::ratio]])


def positions_from_tables(frozen: Tensor, trained: Tensor, keep: int, length: int) -> Tensor:
    """The first ``length`` positions: rows before ``keep`` from one table, the others from the other.

    Each row comes from exactly one table. The reference calls the second one ``positional_embedding_res``, but nothing
    is added; only its rows from ``keep`` on receive a gradient.

    Args:
        frozen: ``(N, W)``.
        trained: ``(N, W)``.
        keep: Rows of the first table.
        length: At most ``N``.

    Raises:
        UsageError: The sequence is longer than the table.

    Example:
        >>> positions_from_tables(torch.zeros(5, 1), torch.ones(5, 1), keep=2, length=4)[:, 0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    if length > len(trained):
        raise UsageError(f"a text must have at most {len(trained)} tokens for this model, got {length}")
    return torch.cat([frozen[: min(keep, length)], trained[keep:length]])
