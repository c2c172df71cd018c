"""FacT in tensor-train form: low-rank factors that all blocks of the encoder share, as in MA-SAM.

The query and the value projection of block l gain ``scale * V dropout(P_l U x)``. ``U`` (r, D) and ``V`` (D, r) belong
to the whole encoder, the cores ``P`` (r, r) to each block, one for queries and one for values. ``V`` starts at zero.
(Jie and Deng, FacT, AAAI 2023; Chen et al., MA-SAM, Medical Image Analysis 2024.)
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SharedFactors(nn.Module):
    """``U`` (r, D) and ``V`` (D, r) of a whole encoder, and how they are applied.

    Args:
        width: Width D of the encoder.
        rank: Rank r.
        dropout: Dropout between core and ``V``.
        scale: Plain multiplier.
    """

    def __init__(self, width: int, rank: int, dropout: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(rank, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.V = nn.Parameter(torch.zeros(width, rank))
        self.dropout = dropout
        self.scale = scale

    def core(self) -> nn.Parameter:
        """A new core (r, r), drawn as a linear layer's weight."""
        rank = self.U.shape[0]
        return nn.Parameter(torch.empty(rank, rank).uniform_(-1 / math.sqrt(rank), 1 / math.sqrt(rank)))

    def forward(self, x: Tensor, query_core: Tensor, value_core: Tensor) -> tuple[Tensor, Tensor]:
        """What queries and values gain, each (…, D), for tokens ``x`` (…, D)."""
        z = F.linear(x, self.U)
        cores = F.dropout(F.linear(z, torch.cat([query_core, value_core])), self.dropout, self.training)
        query, value = cores.chunk(2, -1)
        v = self.scale * self.V
        return F.linear(query, v), F.linear(value, v)

    def product(self, core: Tensor) -> Tensor:
        """The weight (D, D) that the factors with one core amount to without dropout."""
        return self.scale * (self.V @ core @ self.U)
