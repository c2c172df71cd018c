"""Products with the Hessian that a history of steps and changes of the gradient suggests, in small matrices only."""

import torch
from torch import Tensor


def hessian_coefficients(steps: Tensor, changes: Tensor, products: Tensor, along: Tensor) -> tuple[float, Tensor]:
    r"""The compact L-BFGS Hessian times vectors, as a multiple of them plus a combination of what is remembered.

    With steps S and changes Y as columns, :math:`A = S^\top Y`, its strictly lower part L and diagonal D, and
    :math:`\sigma = \langle y, s \rangle / \langle s, s \rangle` of the last pair,

    .. math:: B v = \sigma v - [\sigma S, Y]
        \begin{bmatrix} \sigma S^\top S & L \\ L^\top & -D \end{bmatrix}^{-1}
        \begin{bmatrix} \sigma S^\top v \\ Y^\top v \end{bmatrix}.

    Source: Byrd, Nocedal, Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
    Mathematical Programming 1994, Theorem 2.3.

    Args:
        steps: ``(n, h)`` each step as a combination of ``h`` remembered vectors.
        changes: ``(n, h)`` each change, likewise.
        products: ``(h, h)`` inner products of the remembered vectors.
        along: ``(K, h)`` inner products of each v with them.

    Returns:
        :math:`\sigma` and the ``(K, h)`` coefficients c with :math:`B v_k = \sigma v_k + \sum_i c_{ki} r_i`; a singular
        matrix is inverted in the sense of Moore and Penrose.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> hessian_coefficients(one, 3 * one, one, one)  # f'' is 3 everywhere: the last pair says all
        (3.0, tensor([[0.]], dtype=torch.float64))
    """
    n = len(steps)
    step_products, mixed = steps @ products @ steps.T, steps @ products @ changes.T
    last = float(step_products[-1, -1])
    sigma = float(mixed[-1, -1]) / last if last else 0.0
    lower = mixed.tril(-1)
    middle = torch.cat(
        [torch.cat([sigma * step_products, lower], 1), torch.cat([lower.T, -mixed.diagonal().diag()], 1)]
    )
    inverse, singular = torch.linalg.inv_ex(middle)
    if singular:
        inverse = torch.linalg.pinv(middle)
    right = torch.cat([sigma * steps @ along.T, changes @ along.T])
    solved = (inverse @ right).T
    # Adding zero turns a negative zero into a plain one.
    return sigma, 0.0 - sigma * solved[:, :n] @ steps - solved[:, n:] @ changes
