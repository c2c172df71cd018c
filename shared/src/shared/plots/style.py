"""The house style of pictures: sizes, colours, fonts; saving, and what every picture asks of its input."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from numpy.typing import NDArray

from shared.errors import UsageError

if TYPE_CHECKING:
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

INK, QUIET, _FAINT = "#222222", "#666666", "#E3E3E3"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # the one family that comes with matplotlib: same pictures on every machine
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names are names, even with dollar signs
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": QUIET,
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
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
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


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
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


def require(things: Mapping[str, Any] | Sequence[Any], function: str, argument: str) -> None:
    """Refuse an empty argument of a drawing function."""
    if not len(things):
        raise UsageError(f"{function}: {argument} must not be empty, got none")


def require_shape(matrix: NDArray[Any], rows: Sequence[str], columns: Sequence[str], function: str) -> None:
    """Refuse a matrix that is empty or does not fit the names of its rows and columns."""
    if matrix.shape != (len(rows), len(columns)) or not matrix.size:
        raise UsageError(
            f"{function} needs a non-empty matrix of one row per name ({len(rows)}) and one column per name "
            f"({len(columns)}), got shape {matrix.shape}"
        )
