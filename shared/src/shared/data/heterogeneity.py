"""How unlike each other the clients of a division are."""

import numpy as np


def total_variation(counts: np.ndarray) -> np.ndarray:
    r"""Distance of each client's class shares to those of all clients together.

    :math:`\mathrm{TV}_k = \frac12 \sum_c |n_{kc} / n_k - \sum_j n_{jc} / \sum_j n_j|`: the share of a client's items
    that would have to change class. 0 is a client like the whole; with C equal classes a client of one class has
    :math:`1 - 1/C`.

    Args:
        counts: ``(K, C)`` items of each client and class; no client is empty.

    Returns:
        ``(K,)`` in [0, 1).

    Example:
        >>> total_variation(np.array([[4, 0], [0, 4], [2, 2]])).tolist()
        [0.5, 0.5, 0.0]
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    return 0.5 * np.abs(shares - counts.sum(axis=0) / counts.sum()).sum(axis=1)
