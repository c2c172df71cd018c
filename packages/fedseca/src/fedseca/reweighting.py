"""Means whose weights depend on the distances from the mean itself, iterated without touching a coordinate.

Every iterate of such a rule is a linear combination of the uploads (and of the global model, if the rule runs on
weights). Its distances from them follow from inner products alone, so after one pass over the uploads each iteration
works on a matrix as small as the number of clients, and a second pass forms the result.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, gram
from shared.errors import UsageError

Space = Literal["weights", "updates"]


def check_space(rule: str, space: str) -> None:
    """Refuse what is not a :data:`Space`.

    Raises:
        UsageError: It is none of the two.
    """
    if space not in get_args(Space):
        raise UsageError(f"{rule}: space must be one of {', '.join(get_args(Space))}, got {space!r}")


def global_model(rule: str, origin: Tensor | None, space: Space) -> Tensor | None:
    """The global model where a rule works on weights, ``None`` where it works on updates.

    Raises:
        UsageError: The rule works on weights and nobody said what the global model is.
    """
    if space == "updates":
        return None
    if origin is None:
        raise UsageError(f"{rule}(space=weights) needs the global model as origin, got none")
    return origin


def products_with(updates: Tensor, vector: Tensor | None) -> Tensor:
    """Inner products of the uploads and, as the last row and column, of a vector if there is one.

    Args:
        updates: ``(K, d)``; read only.
        vector: ``(d,)``, or ``None``.

    Returns:
        ``(K, K)`` or ``(K + 1, K + 1)`` float64.
    """
    return gram(updates) if vector is None else gram([*updates, vector])


def frame(products: Tensor, kept: Sequence[int], on_weights: bool) -> tuple[Tensor, Tensor]:
    r"""The points that a rule averages as combinations of the vectors at hand, and the inner products of these.

    On updates the points are the rows :math:`g_k` themselves. On weights they are :math:`W - g_k`, over the vectors
    :math:`g_1, \dots, g_K, W`.

    Args:
        products: What :func:`products_with` returned.
        kept: The ``K'`` rows to use.
        on_weights: Whether the last vector is the global model :math:`W`.

    Returns:
        ``points``, ``(K', n)`` coefficients, and their ``products``, ``(n, n)``; float64, n is K' or K' + 1.

    Example:
        >>> products = products_with(torch.tensor([[1.0, 0.0]]), torch.tensor([4.0, 4.0]))
        >>> points, products = frame(products, [0], on_weights=True)
        >>> points
        tensor([[-1.,  1.]], dtype=torch.float64)
        >>> lengths(points, products)  # of (3, 4)
        tensor([5.], dtype=torch.float64)
    """
    used = [*kept, len(products) - 1] if on_weights else list(kept)
    points = torch.eye(len(kept), dtype=torch.float64, device=products.device)
    if on_weights:
        points = torch.cat([-points, torch.ones_like(points[:, :1])], 1)
    return points, products[used][:, used]


def lengths(coefficients: Tensor, products: Tensor) -> Tensor:
    r"""Euclidean norms :math:`\sqrt{c^\top P c}` of combinations of vectors whose inner products are known.

    Args:
        coefficients: ``(..., n)``.
        products: ``(n, n)``.

    Returns:
        ``(...)``. Squares are what is added, so with :math:`S = \sum_{ij} |c_i c_j P_{ij}|` the error is at most about
        :math:`\sqrt{2^{-52} n S}`, and usually far less: eight digits of the vectors that were combined, which is what
        float32 holds of them.

    Example:
        >>> lengths(torch.tensor([1.0, -1.0]), torch.tensor([[9.0, 0.0], [0.0, 16.0]]))
        tensor(5.)
    """
    return ((coefficients @ products) * coefficients).sum(-1).relu().sqrt()


def fixed_point(
    points: Tensor,
    products: Tensor,
    weigh: Callable[[Tensor], Tensor],
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[Tensor, int]:
    r"""Iterate :math:`v \leftarrow \sum_k \beta_k x_k / \sum_k \beta_k` from 0, with :math:`\beta_k = f(\|v - x_k\|)`.

    Args:
        points: ``(K, n)`` the points :math:`x_k`, see :func:`frame`.
        products: ``(n, n)``.
        weigh: The function f, from ``(K,)`` distances to ``(K,)`` positive weights.
        iterations: How often at most.
        tolerance: Stop as soon as a step is shorter than this.

    Returns:
        The last weights, ``(K,)`` and summing to one, and how many iterations were made.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [100.0]])
        >>> points, products = frame(gram(x), [0, 1, 2], on_weights=False)
        >>> fixed_point(points, products, torch.ones_like, iterations=9, tolerance=1e-3)  # the mean, seen to stand
        (tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64), 2)
    """
    v = torch.zeros_like(points[0])
    weights, made = v, 0
    while made < iterations:
        weights = weigh(lengths(v - points, products))
        weights = weights / weights.sum()
        before, v = v, weights @ points
        made += 1
        if lengths(v - before, products) < tolerance:
            break
    return weights, made


def reweighted_mean(
    rule: str,
    updates: Tensor,
    model: Tensor | None,
    weigh: Callable[[Tensor], Tensor],
    iterations: int,
    tolerance: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of the uploads with the weights of :func:`fixed_point`, in two passes over them.

    Args:
        rule: Name of the rule, for messages.
        updates: ``(K, d)``; read only. Rows that are not finite are left out.
        model: ``(d,)`` the global model to work on weights, ``None`` to work on updates.
        weigh: As in :func:`fixed_point`, and so are ``iterations`` and ``tolerance``.

    Returns:
        The update, ``(d,)``, and the diagnostics ``weights`` (K,), ``iterations`` and ``dropped``.

    Raises:
        UsageError: No row is finite.

    Example:
        >>> reweighted_mean("mean", torch.tensor([[1.0], [3.0]]), None, torch.ones_like, iterations=1)[0]
        tensor([2.])
    """
    products = products_with(updates, model)
    kept = finite_clients(products.diagonal()[: len(updates)], rule)
    points, products = frame(products, kept, model is not None)
    weights, made = fixed_point(points, products, weigh, iterations, tolerance)
    everyone = weights.new_zeros(len(updates))
    everyone[kept] = weights
    return combinations(weights[None], updates, kept)[0], {
        "weights": everyone,
        "iterations": torch.tensor(made),
        "dropped": torch.tensor(len(updates) - len(kept)),
    }
