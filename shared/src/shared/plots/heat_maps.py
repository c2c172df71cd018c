"""Matrices as coloured cells with their numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.plots.style import INK, WIDTH, require_shape, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def heatmap(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    limits: tuple[float, float] | None = None,
    form: str = ".2f",
) -> "Figure":
    """A matrix as coloured cells with their numbers.

    Args:
        values: ``(rows, columns)`` numbers; NaN is an empty cell with a dash.
        rows: Names from top to bottom.
        columns: Names from left to right.
        title: Title of the figure.
        x_label: What the columns are.
        y_label: What the rows are.
        limits: Values of the lightest and the darkest colour; ``None`` takes the least and the greatest value.
        form: Format specification of the numbers.
    """
    matrix = np.asarray(values, dtype=np.float64)
    texts = [["\N{EN DASH}" if np.isnan(value) else format(value, form) for value in row] for row in matrix]
    finite = matrix[np.isfinite(matrix)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    return _cells(matrix, texts, rows, columns, (low, high), title, x_label, y_label)


@styled
def confusion(counts: ArrayLike, names: Sequence[str] | None = None, *, title: str = "") -> "Figure":
    """A confusion matrix: numbers are counts, colour is the share of the true class (each row sums to one).

    Args:
        counts: ``(C, C)`` counts, rows are the true classes.
        names: Names of the classes; ``None`` numbers them from 0.
        title: Title of the figure.
    """
    matrix = np.asarray(counts)
    names = [str(label) for label in range(len(matrix))] if names is None else names
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    texts = [[f"{count:,}" for count in row] for row in matrix.tolist()]
    return _cells(share, texts, names, names, (0.0, 1.0), title, "predicted", "true")


def _cells(
    colours: NDArray[np.float64],
    texts: list[list[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    title: str,
    x_label: str,
    y_label: str,
) -> "Figure":
    """Coloured cells with a text in each; what :func:`heatmap` and :func:`confusion` have in common."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    require_shape(colours, rows, columns, "a heat map")
    # The darkest sixth of the map is left off: black numbers give way to white ones late, and print well.
    palette = LinearSegmentedColormap.from_list("pale blues", colormaps["Blues"](np.linspace(0.02, 0.85, 256)))
    longest = max(len(text) for line in texts for text in line)
    name_width = 0.075 * max(len(name) for name in rows) + 0.5
    room = (WIDTH - name_width) / len(columns)
    flat = 0.085 * max(len(name) for name in columns) + 0.15
    turned = flat > room
    cell_width = min(room, max(0.34, 0.085 * longest + 0.12, 0 if turned else flat))
    cell_height = min(max(0.3, 0.62 * cell_width), 0.45)
    header = 0.055 * max(len(name) for name in columns) + 0.2 if turned else 0.3
    figure = Figure(
        figsize=(
            name_width + cell_width * len(columns) + 0.2,
            cell_height * len(rows) + header + 0.3 * bool(x_label) + 0.3 * bool(title),
        ),
        layout="constrained",
    )
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label, facecolor="#F2F2F2")  # shows through empty cells
    scale = Normalize(*limits)
    axes.imshow(np.ma.masked_invalid(colours), cmap=palette, norm=scale, aspect="auto")
    fontsize = min(8.5, 72 * cell_width * 0.92 / (0.64 * max(longest, 2)))
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            dark = np.isfinite(colours[i, j]) and scale(colours[i, j]) > 0.62
            axes.text(j, i, text, ha="center", va="center", fontsize=fontsize, color="white" if dark else INK)
    axes.set_xticks(range(len(columns)), columns, rotation=40 if turned else 0, ha="left" if turned else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # White lines between the cells, drawn as a grid of the minor ticks.
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", axis="both", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    return figure
