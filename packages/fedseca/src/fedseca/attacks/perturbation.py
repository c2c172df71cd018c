"""The direction along which the MinMax family leaves the mean."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from fedseca.attacks.omniscience import std_over, unit
from shared.errors import UsageError

Perturbation = Literal["unit_vec", "sign", "std"]


def check_perturbation(attack: str, perturbation: str) -> None:
    """Refuse what is not a :data:`Perturbation`.

    Raises:
        UsageError: It is none of the three.
    """
    if perturbation not in get_args(Perturbation):
        raise UsageError(
            f"{attack}: perturbation must be one of {', '.join(get_args(Perturbation))}, got {perturbation!r}"
        )


def perturbation_of(updates: Tensor, rows: Sequence[int], mean: Tensor, perturbation: Perturbation) -> Tensor:
    r"""The vector p of hostile uploads :math:`\mathrm{mean} - \gamma p`.

    ``unit_vec`` is :math:`\mathrm{mean}/\|\mathrm{mean}\|`, ``sign`` :math:`\mathrm{sgn}(\mathrm{mean})` and ``std``
    the standard deviation over the benign clients.

    Args:
        updates: ``(K, d)``; read only.
        rows: The benign ones.
        mean: ``(d,)`` over them.
        perturbation: Which.

    Returns:
        ``(d,)``.

    Raises:
        UsageError: ``std`` of fewer than two rows.

    Example:
        >>> import torch
        >>> updates = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
        >>> perturbation_of(updates, [0, 1], updates[0], "unit_vec")
        tensor([0.6000, 0.8000])
    """
    if perturbation == "unit_vec":
        return unit(mean)
    return mean.sign() if perturbation == "sign" else std_over(updates, rows, mean)
