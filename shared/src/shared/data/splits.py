"""Dividing labelled items: label fractions, stratified and patient-level splits, and the check that nothing leaks."""

import numpy as np

from shared.errors import UsageError


def stratified_fraction(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    r"""Draw a share of every class: :math:`\max(1, \lfloor f n_c + 1/2 \rfloor)` items of class ``c``.

    With generators in equal states a smaller fraction is a subset of a larger one, so that a series of label
    fractions differs in nothing but the labels added.

    Args:
        labels: ``(N,)`` integers.
        fraction: ``f`` in (0, 1].
        rng: Source of randomness.

    Returns:
        Ascending indices into ``labels``.

    Raises:
        UsageError: ``fraction`` is outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"the label fraction must lie in (0, 1], got {fraction}")
    chosen = [items[: max(1, _rounded(fraction * len(items)))] for items in _shuffled_classes(labels, rng)]
    return np.sort(np.concatenate(chosen))


def stratified_split(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r"""Hold out a share of every class: :math:`\lfloor f n_c + 1/2 \rfloor` items, at least one on either side.

    A class with a single item stays in the first part: it can be learnt or tested, not both.

    Args:
        labels: ``(N,)`` integers.
        fraction: ``f`` in (0, 1), the share that is held out.
        rng: Source of randomness.

    Returns:
        Ascending indices of the rest and of the held-out items.

    Raises:
        UsageError: ``fraction`` is outside (0, 1), or no class has two items.
    """
    _check_held_out(fraction)
    held = [
        items[: min(max(1, _rounded(fraction * len(items))), len(items) - 1)]
        for items in _shuffled_classes(labels, rng)
    ]
    return _rest_and_held(np.concatenate(held), len(labels), fraction)


def group_split(
    labels: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    r"""Hold out whole groups (patients), so that the classes come as near to ``fraction`` as groups allow.

    Groups are visited from large to small, equal ones in random order, and a group with class counts :math:`g` joins
    the held-out counts :math:`h` if that lowers :math:`\sum_c ((h_c + g_c) / n_c - f)^2`.

    Args:
        labels: ``(N,)`` integers.
        groups: ``(N,)`` the group of each item.
        fraction: ``f`` in (0, 1), the share that is held out.
        rng: Source of randomness.

    Returns:
        Ascending indices of the rest and of the held-out items; no group is in both.

    Raises:
        UsageError: ``fraction`` is outside (0, 1), or no group is small enough to be held out.
    """
    _check_held_out(fraction)
    _, member = np.unique(groups, return_inverse=True)
    _, classes = np.unique(labels, return_inverse=True)
    counts = np.zeros((member.max() + 1, classes.max() + 1))
    np.add.at(counts, (member, classes), 1)
    shares = counts / counts.sum(axis=0)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    is_held = np.zeros(len(counts), dtype=bool)
    short = np.full(shares.shape[1], fraction)
    for group in order:
        left = short - shares[group]
        if left @ left < short @ short:
            is_held[group], short = True, left
    return _rest_and_held(np.flatnonzero(is_held[member]), len(labels), fraction)


def check_no_leak(column: str, **groups: np.ndarray) -> None:
    """Make sure that no group (patient) is in two parts.

    Args:
        column: What a group is called in the message.
        groups: The groups of the items of each part, by the part's name.

    Raises:
        UsageError: Names the two parts and the first offenders.
    """
    parts = {name: set(np.asarray(values).tolist()) for name, values in groups.items()}
    names = list(parts)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            both = sorted(parts[first] & parts[second])
            if both:
                shown = ", ".join(map(str, both[:5])) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
                raise UsageError(f"no {column} may be in both {first} and {second}, but these are: {shown}")


def _shuffled_classes(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def _rounded(number: float) -> int:
    return int(np.floor(number + 0.5))


def _check_held_out(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UsageError(f"the share that is held out must lie in (0, 1), got {fraction}")


def _rest_and_held(held: np.ndarray, items: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    rest = np.setdiff1d(np.arange(items), held)
    if len(held) == 0 or len(rest) == 0:
        raise UsageError(
            f"a split must leave items on both sides, but holding out {fraction} of {items} items leaves "
            f"{len(rest)} and {len(held)}: the groups or classes are too few"
        )
    return rest, np.sort(held)
