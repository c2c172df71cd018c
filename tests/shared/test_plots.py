"""What the pictures show: series, labels, numbers, colours and sizes."""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from shared import plots
from shared.errors import UsageError
from shared.plots import Curve, bars, confusion, curves, gallery, heatmap, save, small_multiples
from shared.plots.line_plots import _spaced


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def two_series() -> dict[str, Curve]:
    return {"FedSECA": Curve([0.1, 0.5, 0.8], sd=[0.1, 0.1, 0.1], hollow=(2,)), "Krum": Curve([0.1, 0.4, 0.79])}


@pytest.mark.parametrize("dpi", [plots.SCREEN_DPI, plots.PRINT_DPI])
def test_save_writes_a_png_of_the_figure_size(tmp_path: Path, dpi: int) -> None:
    figure = curves(two_series(), y_label="macro-F1", title="Rules")
    path = save(figure, tmp_path / "new folder" / "curves.png", dpi=dpi)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == pytest.approx(figure.get_size_inches() * dpi, abs=1)
        assert "Software" not in image.info


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (save(curves(two_series()), tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    curves(two_series())
    with pytest.raises(UsageError):
        curves({})
    assert dict(matplotlib.rcParams) == before


def test_curves_hold_the_series_the_band_the_marks_and_the_names() -> None:
    (axes,) = curves(two_series(), x_label="epoch", y_label="macro-F1", title="Rules").axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert np.array_equal(lines["Krum"].get_xydata(), [[1, 0.1], [2, 0.4], [3, 0.79]])
    hollow = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[2, 0.5]]]
    assert hollow[0].get_markerfacecolor() == "white"
    assert len(axes.collections) == 1
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("epoch", "macro-F1", "Rules")
    assert [text.get_text() for text in axes.texts] == ["Krum", "FedSECA"]  # by their last values, upwards


def test_names_at_the_ends_do_not_overlap() -> None:
    figure = curves({f"rule {i}": Curve([0.0, 0.5 + 1e-3 * i]) for i in range(8)})
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))


def test_more_series_than_colours_differ_in_their_dashes() -> None:
    (axes,) = curves({str(i): Curve([0, i]) for i in range(20)}).axes
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes.get_lines()}
    assert len(looks) == 20


@pytest.mark.parametrize("curve", [Curve([0.5]), Curve([np.nan, np.nan]), Curve([0.5, np.nan]), Curve([1.0, np.inf])])
def test_short_and_broken_curves_are_drawn(tmp_path: Path, curve: Curve) -> None:
    save(curves({"diverged": curve, "good": Curve([0.1])}), tmp_path / "curve.png")


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_spaced_heights_keep_order_and_gap_and_move_no_more_than_needed(heights: list[float]) -> None:
    wanted = np.sort(heights)
    placed = _spaced(wanted, 10.0, -1e6, 1e6)
    assert (np.diff(placed) >= 10 - 1e-9).all()
    if (np.diff(wanted) >= 10).all():
        assert placed == pytest.approx(wanted)
    assert placed.mean() == pytest.approx(wanted.mean())  # the least-squares solution keeps the mean
    inside = _spaced(wanted, 10.0, 0, 300)
    assert inside.min() >= -1e-9
    assert inside.max() <= 300 + 1e-9
    assert (np.diff(inside) >= 10 - 1e-9).all()


def test_small_multiples_share_scales_colours_and_one_legend() -> None:
    panels = {name: two_series() for name in ("none", "ALIE", "IPM", "Fang")} | {"flip": {"Krum": Curve([0.9, 1.7])}}
    figure = small_multiples(panels, y_label="macro-F1")
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(panels)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    colours = {line.get_color() for axes in figure.axes for line in axes.get_lines() if line.get_label() == "Krum"}
    assert len(colours) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["FedSECA", "Krum"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": []}, "at least one value in y"),
        ({"y": [1, 2], "x": [1]}, r"as many values in x as in y \(2\), got 1"),
        ({"y": [1, 2], "sd": [1, 2, 3]}, "in sd as in y"),
        ({"y": [1, 2], "hollow": (3,)}, r"must lie on its x values, got \[3\]"),
    ],
)
def test_a_curve_that_does_not_fit_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Curve(**arguments)


def test_heatmap_writes_its_numbers_dark_on_light_and_light_on_dark() -> None:
    figure = heatmap([[0.0, 1.0], [0.25, np.nan]], ["mean", "krum"], ["none", "ALIE"], limits=(0, 1), title="F1")
    (axes,) = figure.axes
    assert texts(figure) == ["0.00", "1.00", "0.25", "\N{EN DASH}"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "ALIE"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean", "krum"]
    assert [text.get_color() == "white" for text in axes.texts] == [False, True, False, False]
    assert figure.get_suptitle() == "F1"


def test_constant_and_empty_heatmaps_are_drawn(tmp_path: Path) -> None:
    save(heatmap([[0.5, 0.5]], ["mean"], ["none", "ALIE"]), tmp_path / "constant.png")
    save(heatmap([[np.nan]], ["mean"], ["none"]), tmp_path / "empty.png")


def test_confusion_shows_counts_coloured_by_the_share_of_the_true_class() -> None:
    figure = confusion([[3000, 1000], [0, 0]], ["benign", "malignant"])
    (axes,) = figure.axes
    assert texts(figure) == ["3,000", "1,000", "0", "0"]
    assert np.array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert axes.images[0].get_clim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in confusion(np.eye(3)).axes[0].get_xticklabels()] == ["0", "1", "2"]


@pytest.mark.parametrize("classes", [2, 8, 20])
def test_numbers_stay_inside_their_cells(classes: int) -> None:
    figure = confusion(np.full((classes, classes), 888), [f"a long class name {i}" for i in range(classes)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert figure.get_figwidth() <= plots.WIDTH + 0.5
    width = axes.get_window_extent().width / classes
    assert all(text.get_window_extent().width <= width for text in axes.texts)


def test_bars_stack_the_classes_of_each_client() -> None:
    counts = np.array([[5, 0, 2], [1, 4, 3]])
    figure = bars(counts, ["BCN", "MSK"], ["MEL", "NV", "BCC"], x_label="images", title="Clients")
    (axes,) = figure.axes
    widths = np.array([[patch.get_width() for patch in container] for container in axes.containers])
    starts = np.array([[patch.get_x() for patch in container] for container in axes.containers])
    assert np.array_equal(widths, counts.T)
    assert np.array_equal(starts, [[0, 0], [5, 1], [5, 5]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MEL", "NV", "BCC"]
    low, high = axes.get_ylim()
    assert low > high  # the first client is on top


@pytest.mark.parametrize("parts", [8, 12])
def test_each_class_of_a_bar_has_its_own_colour(parts: int) -> None:
    (axes,) = bars(np.ones((50, parts)), [str(i) for i in range(50)], [str(i) for i in range(parts)]).axes
    assert len({to_rgba(container[0].get_facecolor()) for container in axes.containers}) == parts
    assert len(axes.get_yticks()) <= 40


def test_gallery_shows_images_on_one_scale_with_their_titles(tmp_path: Path) -> None:
    grey = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    figure = gallery([grey, np.full((2, 2, 3), 0.5), np.full((2, 2), 2.0)], ["a", "b → c", "$"], columns=2, title="T")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["a", "b → c", "$"]
    assert np.allclose(shown[0].images[0].get_array(), [[0, 0.2], [0.4, 1]])
    assert shown[0].images[0].get_clim() == (0, 1)
    assert shown[2].images[0].get_array().max() == 1
    save(figure, tmp_path / "gallery.png")


def test_names_with_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    save(curves({"$\\frac{1}$": Curve([1, 2])}, title="$x_$ $"), tmp_path / "dollars.png")


def test_wrong_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="curves: series must not be empty"):
        curves({})
    with pytest.raises(UsageError, match=r"name \(1\) and one column per name \(2\), got shape \(2, 2\)"):
        heatmap(np.eye(2), ["a"], ["b", "c"])
    with pytest.raises(UsageError, match=r"bars needs .* got shape \(3,\)"):
        bars([1, 2, 3], ["a"], ["b"])
    with pytest.raises(UsageError, match=r"height x width x 3, got shape \(3, 8, 8\)"):
        gallery([np.zeros((3, 8, 8))])
    with pytest.raises(UsageError, match="got int64"):
        gallery([np.zeros((8, 8), dtype=np.int64)])
    with pytest.raises(UsageError, match=r"one title per image \(1\), got 2"):
        gallery([np.zeros((8, 8))], ["a", "b"])
