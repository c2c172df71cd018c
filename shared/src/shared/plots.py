"""The pictures of a report, in one style: curves, heat maps, confusion matrices, stacked bars, galleries.

Every function returns a ``matplotlib`` figure of its own, without pyplot and its global state; :func:`save` writes it.
Matplotlib is imported on first use, because it is slow to import and most commands draw nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

SCREEN_DPI = 144
"""Sharp at report width on a display of double density."""
PRINT_DPI = 300
"""For papers and posters."""

WIDTH = 7.2
"""Inches of a full-width figure; text of 9 points stays readable when a report shows it 720 px wide."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#555555")
"""Distinct to colour-blind readers: Okabe and Ito (2008), yellow and black replaced by brown and grey."""
_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.4)))

_INK, _QUIET, _FAINT = "#222222", "#666666", "#E3E3E3"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # the one family that comes with matplotlib: same pictures on every machine
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,  # names are names, even with dollar signs
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": _QUIET,
    "axes.labelsize": 9,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": "#999999",
    "ytick.color": "#999999",
    "xtick.labelcolor": _QUIET,
    "ytick.labelcolor": _QUIET,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Curve:
    """One series of :func:`curves`.

    Attributes:
        y: Values; a NaN leaves a gap.
        x: Abscissae, as many as ``y``; ``None`` counts from 1, as rounds and epochs are counted for readers.
        sd: Half height of the shaded band around ``y``, as many as ``y``; ``None`` draws none.
        hollow: Abscissae of points to mark with a hollow circle: where a run was resumed, say, or its best round.
    """

    y: Sequence[float]
    x: Sequence[float] | None = None
    sd: Sequence[float] | None = None
    hollow: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.y) == 0:
            raise UsageError("a curve needs at least one value in y, got none")
        for name, values in (("x", self.x), ("sd", self.sd)):
            if values is not None and len(values) != len(self.y):
                raise UsageError(f"a curve needs as many values in {name} as in y ({len(self.y)}), got {len(values)}")
        if strangers := set(self.hollow) - set(self.abscissae.tolist()):
            raise UsageError(f"a curve's hollow marks must lie on its x values, got {sorted(strangers)}")

    @property
    def abscissae(self) -> NDArray[np.float64]:
        """``x`` as an array, counted from 1 where it was not given."""
        return np.arange(1.0, len(self.y) + 1) if self.x is None else np.asarray(self.x, dtype=np.float64)


def _styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """Run ``draw`` under the house style and restore matplotlib's settings after it."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def save(figure: "Figure", path: str | Path, *, dpi: int = SCREEN_DPI) -> Path:
    """Write ``figure`` as a PNG of ``dpi`` dots per inch, creating the folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})
    return path


@_styled
def curves(
    series: Mapping[str, Curve], *, x_label: str = "round", y_label: str = "", title: str = "", height: float = 3.4
) -> "Figure":
    """Several named series in one axes, each named at its right end."""
    from matplotlib.figure import Figure

    _require(series, "curves", "series")
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
    _draw_curves(axes, series, list(series))
    figure.draw_without_rendering()  # fixes the axis limits, without which the ends have no place on the page
    _label_ends(axes, series)
    return figure


@_styled
def small_multiples(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x_label: str = "round",
    y_label: str = "",
    columns: int = 3,
    panel_height: float = 2.0,
) -> "Figure":
    """One axes per panel on common scales; a name has one colour in all panels, told by one legend above."""
    from matplotlib.figure import Figure

    _require(panels, "small_multiples", "panels")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, rows * panel_height + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (panel, series) in zip(grid, panels.items(), strict=False):
        _draw_curves(axes, series, names)
        axes.set_title(panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.xaxis.set_tick_params(labelbottom=True)  # also above the hole of an incomplete last row
    figure.supxlabel(x_label, fontsize=9, color=_QUIET)
    figure.supylabel(y_label, fontsize=9, color=_QUIET)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    fitting = max(1, 110 // (6 + max(len(name) for name in names)))
    figure.legend([lines[name] for name in names], names, loc="outside upper left", ncols=min(len(names), fitting))
    return figure


@_styled
def scaling(
    panels: Mapping[str, Mapping[str, Curve]], *, x_label: str, y_label: str, panel_height: float = 4.2
) -> "Figure":
    """Panels below each other on common logarithmic scales, every series named at its right end.

    A straight line of slope one doubles with its abscissa.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    _require(panels, "scaling", "panels")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    figure = Figure(figsize=(WIDTH, len(panels) * panel_height), layout="constrained")
    grid = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (panel, series) in zip(grid, panels.items(), strict=True):
        _draw_curves(axes, series, names)
        axes.set(title=panel, xscale="log", yscale="log", ylabel=y_label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.15g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelbottom=True)
    grid[-1].set_xlabel(x_label)
    figure.draw_without_rendering()  # fixes the axis limits, without which the ends have no place on the page
    for axes, series in zip(grid, panels.values(), strict=True):
        _label_ends(axes, series)
    return figure


@_styled
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


@_styled
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


@_styled
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
    _require_shape(lengths, rows, parts, "bars")
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


@_styled
def gallery(
    images: Sequence[ArrayLike], titles: Sequence[str] | None = None, *, columns: int = 6, title: str = ""
) -> "Figure":
    """A grid of images, row by row.

    Args:
        images: Each ``H x W`` or ``H x W x 3``, uint8 or floating point in [0, 1]; grey ones are drawn on that scale
            too, so that brightness can be compared between images.
        titles: One short line above each image.
        columns: Images per row.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    _require(images, "gallery", "images")
    if titles is not None and len(titles) != len(images):
        raise UsageError(f"gallery needs one title per image ({len(images)}), got {len(titles)}")
    pictures = [_picture(image) for image in images]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    side = WIDTH / max(columns, 4)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure = Figure(
        figsize=(side * columns, rows * (side * ratio + 0.18 * bool(titles)) + 0.3 * bool(title)),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0),
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for index, picture in enumerate(pictures):
        grid[index].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if titles is not None:
            grid[index].set_title(titles[index], fontsize=8, fontweight="normal", loc="center", pad=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    return figure


def _require(things: Mapping[str, Any] | Sequence[Any], function: str, argument: str) -> None:
    if not len(things):
        raise UsageError(f"{function}: {argument} must not be empty, got none")


def _require_shape(matrix: NDArray[Any], rows: Sequence[str], columns: Sequence[str], function: str) -> None:
    if matrix.shape != (len(rows), len(columns)) or not matrix.size:
        raise UsageError(
            f"{function} needs a non-empty matrix of one row per name ({len(rows)}) and one column per name "
            f"({len(columns)}), got shape {matrix.shape}"
        )


def _spread(count: int) -> list[Any]:
    """``count`` colours that neighbours in a stack can be told apart by."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.05, 0.97, count)))


def _draw_curves(axes: "Axes", series: Mapping[str, Curve], names: list[str]) -> None:
    """Draw the curves of one panel; the place of a name in ``names`` fixes its colour and dash."""
    from matplotlib.ticker import MaxNLocator

    axes.grid()
    for name, curve in series.items():
        place = names.index(name)
        colour, dash = PALETTE[place % len(PALETTE)], _DASHES[place // len(PALETTE) % len(_DASHES)]
        x, y = curve.abscissae, np.asarray(curve.y, dtype=np.float64)
        if curve.sd is not None:
            axes.fill_between(x, y - np.asarray(curve.sd), y + np.asarray(curve.sd), color=colour, alpha=0.15, lw=0)
        # A single value would draw nothing as a line.
        axes.plot(x, y, color=colour, linestyle=dash, marker="o" if len(x) == 1 else None, label=name)
        if curve.hollow:
            marked = np.isin(x, np.asarray(curve.hollow))
            axes.plot(x[marked], y[marked], "o", markersize=5, mfc="white", mec=colour, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.margins(x=0.02)
    if len(everywhere := np.unique(np.concatenate([curve.abscissae for curve in series.values()]))) == 1:
        axes.set_xlim(everywhere[0] - 0.5, everywhere[0] + 0.5)


def _label_ends(axes: "Axes", series: Mapping[str, Curve]) -> None:
    """Write each curve's name beside its last value, moved up or down just enough that names do not overlap."""
    from matplotlib.colors import to_rgb

    lines = {line.get_label(): line for line in axes.get_lines()}
    box = axes.get_window_extent()
    wanted = {name: _end_height(axes, curve) for name, curve in series.items()}
    order = sorted(wanted, key=lambda name: wanted[name])
    gap = 11.5 * axes.figure.dpi / 72
    placed = _spaced(np.array([wanted[name] for name in order]), gap, box.y0, box.y1)
    for name, height in zip(order, placed, strict=True):
        axes.annotate(
            name,
            xy=(1, (height - box.y0) / box.height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=[0.72 * channel for channel in to_rgb(lines[name].get_color())],  # thin letters need more contrast
            annotation_clip=False,
        )


def _end_height(axes: "Axes", curve: Curve) -> float:
    """Height in pixels of the last value that is a number; the foot of the axes for a curve without any."""
    values = np.asarray(curve.y, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(axes.transData.transform((0, values[-1]))[1] if values.size else axes.get_window_extent().y0)


def _spaced(wanted: NDArray[np.float64], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """The ascending heights nearest to ``wanted`` (ascending) that are ``gap`` apart: isotonic regression.

    Subtracting ``gap * rank`` turns "at least a gap apart" into "not descending"; pooling adjacent violators solves
    that in the least-squares sense, and clipping its solution keeps the stack within ``[low, high]`` where it fits.
    """
    offsets = gap * np.arange(len(wanted))
    pools: list[list[float]] = []
    for value in wanted - offsets:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            top = pools.pop()
            pools[-1] += top
    fit = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
    return fit.clip(low, max(low, high - offsets[-1])) + offsets


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

    _require_shape(colours, rows, columns, "a heat map")
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
            axes.text(j, i, text, ha="center", va="center", fontsize=fontsize, color="white" if dark else _INK)
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


def _picture(image: ArrayLike) -> NDArray[np.float64]:
    """An image as floating point in [0, 1]."""
    array = np.asarray(image)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise UsageError(f"gallery: an image must be height x width or height x width x 3, got shape {array.shape}")
    if array.dtype == np.uint8:
        return array / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"gallery: an image must be uint8 or floating point in [0, 1], got {array.dtype}")
    return array.clip(0, 1).astype(np.float64)
