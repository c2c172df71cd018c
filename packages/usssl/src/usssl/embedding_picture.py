"""Features as a picture: their first two principal components."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from shared.errors import UsageError
from shared.plots.style import PALETTE, WIDTH, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHERS = "others"


def principal_components(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``(N, 2)`` coordinates along the two directions of most variance, and ``(2,)`` their shares of it.

    Args:
        features: ``(N, F)``, at least two of each.

    Raises:
        UsageError: There are fewer.
    """
    from sklearn.decomposition import PCA

    if min(features.shape) < 2:
        raise UsageError(f"a picture of features needs at least two of two numbers, got {tuple(features.shape)}")
    pca = PCA(2, svd_solver="full")
    values = features.double().numpy()
    if not (values - values[0]).any():  # all alike: no direction has any variance, and shares of none are undefined
        return np.zeros((len(values), 2)), np.zeros(2)
    return pca.fit_transform(values), pca.explained_variance_ratio_


def most_frequent(groups: Sequence[str], limit: int = len(PALETTE)) -> list[str]:
    """Names of the groups in order; those beyond the most frequent become one.

    Example:
        >>> most_frequent(["a", "b", "a", "c"], limit=2)
        ['a', 'others', 'a', 'others']
    """
    names, counts = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    if len(names) <= limit:
        return list(groups)
    kept = set(names[np.argsort(-counts, kind="stable")][: limit - 1].tolist())
    return [group if group in kept else OTHERS for group in groups]


@styled
def embedding_picture(features: Tensor, groups: Sequence[str], *, title: str = "") -> "Figure":
    """Points of ``(N, F)`` features on their first two principal components, coloured by ``N`` names of groups."""
    from matplotlib.figure import Figure

    points, shares = principal_components(features)
    named = np.array(most_frequent(groups))
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot(
        title=title,
        xlabel=f"first component ({shares[0]:.0%} of the variance)",
        ylabel=f"second component ({shares[1]:.0%})",
    )
    for colour, name in zip(PALETTE, sorted(set(named.tolist())), strict=False):
        chosen = points[named == name]
        axes.plot(chosen[:, 0], chosen[:, 1], "o", markersize=3.5, alpha=0.7, color=colour, mew=0, label=name)
    figure.legend(loc="outside right upper")
    return figure
