"""Scores of a run as tables: sites by scores, and sites' own models by sites."""

import math
from collections.abc import Mapping, Sequence

Scores = Mapping[str, float]
Table = tuple[list[str], list[list[object]]]


def site_table(scores: Scores, volumes: Mapping[str, int], masks: Sequence[str]) -> Table:
    """Head and lines: a line per site, then their mean and that over all volumes.

    Args:
        scores: As :class:`shared.metrics.volume.VolumeMetrics` names them.
        volumes: Site to its number of evaluation volumes; sites without any are left out.
        masks: Names of the classes and groups.

    Returns:
        Dice of each mask and, where there are several, the mean over classes; HD95 in mm and surface Dice, means over
        classes, where they were measured; the number of volumes. ``None`` where a score is undefined.

    Example:
        >>> scores = {"dice": 0.7, "dice_pooled": 0.65, "dice/class_a": 0.7, "dice_pooled/class_a": 0.65}
        >>> scores |= {"dice/site_X/class_a": 0.7, "dice/site_X": 0.7}
        >>> site_table(scores, {"X": 2, "Y": 0}, ["a"])
        (['site', 'Dice a', 'volumes'], [['X', 0.7, 2], ['mean over sites', 0.7, 2], ['mean over volumes', 0.65, 2]])
    """
    tested = {site: count for site, count in volumes.items() if count}
    per_mask = [f"/class_{mask}" for mask in masks]
    head = [f"Dice {mask}" for mask in masks] + (["Dice"] if len(masks) > 1 else [])
    names = [("dice", part) for part in per_mask] + ([("dice", "")] if len(masks) > 1 else [])
    if "hd95" in scores:
        head += ["HD95, mm", "surface Dice"]
        names += [("hd95", ""), ("surface_dice", "")]
    lines: list[list[object]] = [
        [site, *(_defined(scores, f"{name}/site_{site}{part}") for name, part in names), count]
        for site, count in tested.items()
    ]
    for title, kind in (("mean over sites", ""), ("mean over volumes", "_pooled")):
        values = [_defined(scores, f"{name}{kind}{part}") for name, part in names]
        lines.append([title, *values, sum(tested.values())])
    return ["site", *head, "volumes"], lines


def model_table(scores: Scores, sites: Sequence[str], tested: Sequence[str]) -> Table:
    """Head and lines: Dice of each site's own model on each site's volumes and their mean.

    Args:
        scores: With ``model_K/...`` for client ``K``.
        sites: Of the clients, in the order of their ids.
        tested: Sites with evaluation volumes.
    """
    lines: list[list[object]] = [
        [
            site,
            *(_defined(scores, f"model_{k}/dice/site_{other}") for other in tested),
            _defined(scores, f"model_{k}/dice"),
        ]
        for k, site in enumerate(sites)
        if f"model_{k}/dice" in scores
    ]
    return ["model of", *(f"on {site}" for site in tested), "mean"], lines


def told_empty(scores: Scores, masks: Sequence[str]) -> str:
    """How many masks were empty, in a sentence.

    Example:
        >>> told_empty({"both_empty/class_a": 0.0, "one_empty/class_a": 2.0}, ["a"])
        'Empty masks: a 0 times in truth and prediction (Dice 1), 2 times in one of the two (Dice 0).'
        >>> told_empty({"both_empty/class_a": 0.0, "one_empty/class_a": 0.0}, ["a"])
        'No mask is empty.'
    """
    counts = {mask: [scores.get(f"{kind}_empty/class_{mask}", 0.0) for kind in ("both", "one")] for mask in masks}
    if not any(both or one for both, one in counts.values()):
        return "No mask is empty."
    told = (
        f"{mask} {both:g} times in truth and prediction (Dice 1), {one:g} times in one of the two (Dice 0)"
        for mask, (both, one) in counts.items()
    )
    return f"Empty masks: {'; '.join(told)}."


def _defined(scores: Scores, name: str) -> float | None:
    value = scores.get(name, math.nan)
    return None if math.isnan(value) else value
