"""Curves over rounds or epochs, in one axes or one panel each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError
from shared.plots.style import PALETTE, QUIET, WIDTH, require, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.4)))


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


@styled
def curves(
    series: Mapping[str, Curve], *, x_label: str = "round", y_label: str = "", title: str = "", height: float = 3.4
) -> "Figure":
    """Several named series in one axes, each named at its right end."""
    from matplotlib.figure import Figure

    require(series, "curves", "series")
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
    _draw_curves(axes, series, list(series))
    figure.draw_without_rendering()  # fixes the axis limits, without which the ends have no place on the page
    _label_ends(axes, series)
    return figure


@styled
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

    require(panels, "small_multiples", "panels")
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
    figure.supxlabel(x_label, fontsize=9, color=QUIET)
    figure.supylabel(y_label, fontsize=9, color=QUIET)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    fitting = max(1, 110 // (6 + max(len(name) for name in names)))
    figure.legend([lines[name] for name in names], names, loc="outside upper left", ncols=min(len(names), fitting))
    return figure


@styled
def scaling(
    panels: Mapping[str, Mapping[str, Curve]], *, x_label: str, y_label: str, panel_height: float = 4.2
) -> "Figure":
    """Panels below each other on common logarithmic scales, every series named at its right end.

    A straight line of slope one doubles with its abscissa.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    require(panels, "scaling", "panels")
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
