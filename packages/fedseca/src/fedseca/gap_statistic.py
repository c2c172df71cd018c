"""Whether numbers fall into two groups, and where the groups part."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def two_means(values: Numbers) -> tuple[int, float]:
    """The best parting of numbers into a lower and an upper group: 2-means, without a start to choose.

    Args:
        values: ``(n,)`` in ascending order, n at least 2.

    Returns:
        How many numbers are in the lower group, and the sum of squares around the two means. Of equal partings the
        first.

    Example:
        >>> two_means(np.array([0.0, 2.0, 10.0, 11.0, 12.0]))
        (2, 4.0)
    """
    n = len(values)
    centred = values - values.mean()
    low, squares = np.cumsum(centred)[:-1], float(np.square(centred).sum())
    sizes = np.arange(1, n)
    # Centred, the sum of the upper group is that of the lower with the other sign.
    within = squares - np.square(low) / sizes - np.square(low) / (n - sizes)
    best = int(within.argmin())
    return best + 1, max(float(within[best]), 0.0)


def falls_in_two(values: Numbers, generator: np.random.Generator, references: int = 10) -> bool:
    r"""Whether the gap statistic finds more than one cluster.

    With :math:`W_k` the sum of squares around k means,
    :math:`\mathrm{gap}(k) = \log \overline{W_k^{\mathrm{ref}}} - \log W_k` over samples of uniform numbers, and
    :math:`s_k = \sqrt{1 + 1/R}\,\mathrm{std}(\log W_k^{\mathrm{ref}})`, the number of clusters is the least k with
    :math:`\mathrm{gap}(k) \ge \mathrm{gap}(k+1) - s_{k+1}`. It is more than one exactly where this fails for k = 1, so
    only one and two means are ever needed.

    Source: Tibshirani, Walther, Hastie, "Estimating the number of clusters in a data set via the gap statistic", JRSS B
    2001; with the logarithm of the mean in place of the mean of logarithms, as the programs of FLDetector have it.

    Args:
        values: ``(n,)`` from 0 to 1.
        generator: Of the uniform samples.
        references: R, how many samples of n numbers.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> falls_in_two(np.array([0.0, 0.01, 0.02, 0.03, 0.99, 1.0]), generator)
        True
        >>> falls_in_two(np.linspace(0, 1, 6), generator)
        False
    """
    samples = np.sort(generator.uniform(size=(references, len(values))), axis=1)
    tables = np.vstack([np.sort(values), samples])
    one = np.square(tables - tables.mean(1, keepdims=True)).sum(1)
    two = np.array([two_means(row)[1] for row in tables])
    one_log, two_log = (np.log(np.maximum(w, np.finfo(np.float64).tiny)) for w in (one, two))
    gap_one, gap_two = (np.log(w[1:].mean()) - log[0] for w, log in ((one, one_log), (two, two_log)))
    return bool(gap_one < gap_two - np.sqrt(1 + 1 / references) * two_log[1:].std())


def upper_group(values: Numbers, generator: np.random.Generator, references: int = 10) -> NDArray[np.bool_]:
    """Who belongs to the upper of two groups; nobody where the numbers do not fall into two.

    Args:
        values: ``(n,)`` finite. Fewer than three never part.
        generator: Of the uniform samples, see :func:`falls_in_two`.
        references: How many samples.

    Returns:
        ``(n,)``.

    Example:
        >>> upper_group(np.array([5.0, 90.0, 5.1, 5.2, 5.3, 91.0]), np.random.default_rng(0))
        array([False,  True, False, False, False,  True])
    """
    nobody = np.zeros(len(values), bool)
    if len(values) < 3 or values.min() == values.max():
        return nobody
    scaled = (values - values.min()) / np.ptp(values)
    if not falls_in_two(scaled, generator, references):
        return nobody
    ordered = np.sort(scaled)
    return scaled >= ordered[two_means(ordered)[0]]
