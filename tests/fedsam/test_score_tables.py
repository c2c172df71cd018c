"""Tables of scores against the records of single volumes."""

import math

import numpy as np
import torch

from fedsam.score_tables import model_table, site_table, told_empty
from shared.metrics.volume import VolumeMetrics


def scored() -> VolumeMetrics:
    """Three volumes of two sites with two classes; the second class is nowhere at site b."""
    metrics = VolumeMetrics(["big", "small"], {"both": [1, 2]})
    rng = np.random.default_rng(4)
    for site, case, classes in (("a", "1", 3), ("a", "2", 3), ("b", "1", 2)):
        target, prediction = (torch.from_numpy(rng.integers(classes, size=(5, 6, 7))) for _ in range(2))
        metrics.update(prediction, target, (1.0, 2.0, 3.0), site, case)
    return metrics


def mean(rows: list[dict[str, str | float]], score: str, **wanted: str) -> float:
    values = [float(r[score]) for r in rows if all(r[key] == value for key, value in wanted.items())]
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values)


def test_a_line_per_site_and_two_means() -> None:
    metrics = scored()
    rows, scores = metrics.volumes(), {name: float(value) for name, value in metrics.compute().items()}
    head, lines = site_table(scores, {"b": 1, "a": 2, "untested": 0}, list(metrics.masks))
    assert head == ["site", "Dice big", "Dice small", "Dice both", "Dice", "HD95, mm", "surface Dice", "volumes"]
    assert [(line[0], line[-1]) for line in lines] == [
        ("b", 1),
        ("a", 2),
        ("mean over sites", 3),
        ("mean over volumes", 3),
    ]
    of_site = {}
    for line in lines[:2]:
        site = str(line[0])
        dice = [mean(rows, "dice", site=site, **{"class": mask}) for mask in metrics.masks]
        np.testing.assert_allclose(line[1:5], [*dice, (dice[0] + dice[1]) / 2])
        classes = ["big", "small"] if site == "a" else ["big"]  # distances to nothing are undefined
        hd95 = sum(mean(rows, "hd95", site=site, **{"class": mask}) for mask in classes) / len(classes)
        np.testing.assert_allclose(line[5], hd95)
        of_site[site] = np.array(line[1:5])
    np.testing.assert_allclose(lines[2][1:5], (of_site["a"] + of_site["b"]) / 2)
    np.testing.assert_allclose(lines[3][1:4], [mean(rows, "dice", **{"class": mask}) for mask in metrics.masks])
    told = told_empty(scores, ["big", "small"])
    assert "small 1 times in truth and prediction (Dice 1), 0 times in one of the two" in told


def test_what_is_undefined_is_a_dash() -> None:
    metrics = VolumeMetrics(["a"])
    nothing = torch.zeros(5, 4, 4, dtype=torch.long)
    metrics.update(nothing, nothing, (1, 1, 1), "x", "1")
    _, lines = site_table({name: float(value) for name, value in metrics.compute().items()}, {"x": 1}, ["a"])
    assert lines[0] == ["x", 1.0, None, None, 1]


def test_sites_own_models() -> None:
    scores = {f"model_{k}/dice/site_{site}": k + i / 10 for k in (0, 2) for i, site in enumerate("xy")}
    scores |= {"model_0/dice": 0.05, "model_2/dice": 2.05}
    head, lines = model_table(scores, ["x", "y", "z"], ["x", "y"])
    assert head == ["model of", "on x", "on y", "mean"]
    assert lines == [["x", 0.0, 0.1, 0.05], ["z", 2.0, 2.1, 2.05]]
    assert model_table({"dice": 0.5}, ["x"], ["x"])[1] == []
