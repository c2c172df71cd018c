"""The course of the learning rate: on the clock of updates, or on the two clocks of the authors' code."""

import math

from shared.schedules import cosine_factor


def updates_of(batches: int, accumulate: int, drop_tail: bool) -> int:
    """Updates in one pass over so many micro-batches.

    Example:
        >>> updates_of(10, 4, drop_tail=False), updates_of(10, 4, drop_tail=True)
        (3, 2)
    """
    return batches // accumulate if drop_tail else math.ceil(batches / accumulate)


def update_factor(update: int, total: int, warmup: int) -> float:
    """Share of the base rate at an update (from 0): linear warm-up from ``1 / warmup``, then half a cosine to 0.

    See :func:`shared.schedules.cosine_factor`. A training without room for the warm-up stays on its slope.

    Example:
        >>> [update_factor(t, total=1000, warmup=200) for t in (0, 199, 200, 600, 1000)]
        [0.005, 1.0, 1.0, 0.5, 0.0]
    """
    if update < warmup or total <= warmup:
        return min(1.0, (update + 1) / max(warmup, 1))
    return cosine_factor(update, total, warmup, from_zero=False)


def reference_factor(update: int, accumulate: int, batches: int, epochs: int, warmup: int) -> float:
    r"""The same as the authors' code has it, with its two slips.

    Its length ``S`` counts updates but it is asked with the index of the micro-batch, and it is asked after the step.
    So the first update runs at the base rate, and with four micro-batches per update the warm-up lasts a quarter of its
    length and the cosine, which is not stopped at ``S``, falls to 0 after a quarter of the training, is back at the
    base rate after about half, and falls and rises once more.

    Args:
        update: From 0, of updates that are made: an incomplete group at the end of a pass is thrown away.
        accumulate: Micro-batches of an update.
        batches: Micro-batches of a pass.
        epochs: Passes.
        warmup: Length of the warm-up, in whatever the clock counts.

    Example:
        >>> [round(reference_factor(u, 4, 4000, 1, 200), 3) for u in (0, 1, 50, 250, 500, 750)]
        [1.0, 0.02, 1.0, 0.0, 0.855, 0.498]
    """
    if update == 0:
        return 1.0
    per_epoch = updates_of(batches, accumulate, drop_tail=True)
    epoch, inside = divmod(update - 1, per_epoch)
    clock = epoch * batches + (inside + 1) * accumulate - 1  # the micro-batch with which the update before ended
    total = epochs * batches // accumulate
    if clock < warmup:
        return (clock + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (clock - warmup) / (total - warmup)))
