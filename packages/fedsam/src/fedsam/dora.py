r"""DoRA: the norms of an adapted weight are trained apart from its direction.

:math:`W' = m \odot (W + \alpha BA) / \|W + \alpha BA\|`. The authors of FLAP-SAM take the norm over dimension 0 of the
(out, in) weight, one per input column; the DoRA paper's released code and peft take one per output row.
"""

from typing import Literal

from torch import Tensor

Axis = Literal["column", "row"]


def magnitude(weight: Tensor, axis: Axis) -> Tensor:
    """Norms of a weight (out, in): (1, in) for ``column``, (out, 1) for ``row``."""
    return weight.norm(dim=0 if axis == "column" else 1, keepdim=True)


def dora_weight(product: Tensor, norms: Tensor, axis: Axis) -> Tensor:
    r""":math:`m \odot P / \|P\|` for :math:`P = W + \alpha BA` (out, in) and norms :math:`m`."""
    return product * (norms / magnitude(product, axis))
