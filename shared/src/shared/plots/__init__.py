"""The pictures of a report, in one style: curves, heat maps, confusion matrices, stacked bars, galleries.

Every function returns a ``matplotlib`` figure of its own, without pyplot and its global state; :func:`save` writes it.
Matplotlib is imported on first use, because it is slow to import and most commands draw nothing.
"""

from shared.plots.bar_plots import bars
from shared.plots.heat_maps import confusion, heatmap
from shared.plots.image_grids import gallery
from shared.plots.line_plots import Curve, curves, scaling, small_multiples
from shared.plots.style import PRINT_DPI, SCREEN_DPI, WIDTH, save

__all__ = [
    "PRINT_DPI",
    "SCREEN_DPI",
    "WIDTH",
    "Curve",
    "bars",
    "confusion",
    "curves",
    "gallery",
    "heatmap",
    "save",
    "scaling",
    "small_multiples",
]
