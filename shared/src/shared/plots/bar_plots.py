"""Stacked bars: what each client holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from shared.plots.style import PALETTE, WIDTH, require_shape, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def bars(
    counts: ArrayLike, rows: Sequence[str], parts: Sequence[str], *, x_label: str = "items", title: str = ""
) -> "Figure":
    """Stacked horizontal bars: how many items of each class every client holds.

    Args:
        counts: ``(rows, parts)`` non-negative numbers.
        rows: Names of the bars from top to bottom (clients).
        parts: Names of the pieces of a bar (classes).
        x_label: What is counted.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    lengths = np.asarray(counts, dtype=np.float64)
    require_shape(lengths, rows, parts, "bars")
    step = 0.3 if len(rows) <= 40 else 8 / len(rows)
    figure = Figure(figsize=(WIDTH, 1.1 + step * max(len(rows), 3)), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label)
    axes.grid(axis="x")
    starts = np.cumsum(lengths, axis=1) - lengths
    seam = 0.5 if step > 0.12 else 0.0
    for name, length, start, colour in zip(parts, lengths.T, starts.T, _spread(len(parts)), strict=True):
        axes.barh(range(len(rows)), length, left=start, height=0.78, color=colour, label=name, ec="white", lw=seam)
    every = -(-len(rows) // 40)
    axes.set_yticks(range(0, len(rows), every), rows[::every])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


def _spread(count: int) -> list[Any]:
    """``count`` colours that neighbours in a stack can be told apart by."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.05, 0.97, count)))
