r"""Low-rank adaptation of the query and value projections.

A target :math:`y = Wx + b` becomes :math:`y + \alpha \sum_i p_i B_i A_i x` with :math:`A_i` of shape (r, in) and
:math:`B_i` of shape (out, r). With one pair :math:`p_1 = 1`. Several parallel pairs are mixed by
:math:`p = \mathrm{softmax}(\sigma(s))`, one trainable vector ``lora_scale`` :math:`s` per attention module.
:math:`\alpha` is a plain multiplier and is not divided by r.

An attention module owns its factors as ``lora_q`` and ``lora_v``, so their names are ``<attention>.lora_q.A`` and so
on, or ``<attention>.lora_q.0.A`` where there are several (Hu et al., LoRA, ICLR 2022; FLAP-SAM, arXiv 2407.21739).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsam.dora import Axis, dora_weight, magnitude
from shared.errors import UsageError


@dataclass(frozen=True)
class LoraOptions:
    """How LoRA is set up.

    Attributes:
        rank: Rank r of each pair.
        alpha: Plain multiplier of the low-rank term.
        init: ``zero_b``: B starts at zero, so training starts from the pre-trained function. ``reference``: A and B
            both start uniform within 1/sqrt(fan in), as in the authors' code.
        num: Parallel pairs per target.
        dora: Norms of the adapted weight are trained apart (DoRA), one per input ``column`` as in the authors' code or
            one per output ``row``; ``None``: plain LoRA.
    """

    rank: int = 32
    alpha: float = 1.0
    init: Literal["zero_b", "reference"] = "zero_b"
    num: int = 1
    dora: Axis | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"model.rank must be at least 1, got {self.rank}")
        if self.num < 1:
            raise UsageError(f"model.num_lora must be at least 1, got {self.num}")
        if self.init not in {"zero_b", "reference"}:
            raise UsageError(f"model.lora_init must be zero_b or reference, got {self.init!r}")
        if self.dora not in {None, "column", "row"}:
            raise UsageError(f"model.dora must be column, row or null, got {self.dora!r}")


class LowRank(nn.Module):
    """One pair of factors: ``A`` (r, in) and ``B`` (out, r)."""

    def __init__(self, inputs: int, outputs: int, options: LoraOptions) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(options.rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, options.rank))
        nn.init.uniform_(self.A, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        if options.init == "reference":
            nn.init.uniform_(self.B, -1 / math.sqrt(options.rank), 1 / math.sqrt(options.rank))


class QueryValueLora(nn.Module):
    """Base of attention modules whose query and value projections can carry low-rank factors.

    Subclasses say what their projections are through :meth:`query_value_weights`.
    """

    lora: LoraOptions | None = None

    def query_value_weights(self) -> tuple[Tensor, Tensor]:
        """The frozen weights (out, in) of the query and of the value projection, as views."""
        raise NotImplementedError

    def add_lora(self, options: LoraOptions) -> None:
        """Give both projections factors."""
        self.lora = options
        for side, weight in zip("qv", self.query_value_weights(), strict=True):
            pairs = [LowRank(weight.shape[1], weight.shape[0], options) for _ in range(options.num)]
            setattr(self, f"lora_{side}", pairs[0] if options.num == 1 else nn.ModuleList(pairs))
            if options.dora:
                shape = (1, weight.shape[1]) if options.dora == "column" else (weight.shape[0], 1)
                setattr(self, f"dora_{side}", nn.Parameter(torch.ones(shape)))
        if options.num > 1:
            self.lora_scale = nn.Parameter(torch.randn(options.num))
        self.reset_magnitudes()

    def factors(self, side: Literal["q", "v"]) -> tuple[Tensor, Tensor]:
        r"""``(A, B)`` of one target with :math:`B A = \sum_i p_i B_i A_i`: parallel pairs are stacked."""
        lora = getattr(self, f"lora_{side}")
        if isinstance(lora, LowRank):
            return lora.A, lora.B
        shares = torch.softmax(torch.sigmoid(self.lora_scale), 0)
        return (
            torch.cat([pair.A for pair in lora]),
            torch.cat([share * pair.B for share, pair in zip(shares, lora, strict=True)], 1),
        )

    def adapted_weights(self) -> tuple[Tensor, Tensor]:
        r"""What the projections amount to: :math:`W + \alpha B A`, with DoRA's norms where it is on."""
        if self.lora is None:
            return self.query_value_weights()
        adapted = []
        for side, weight in zip("qv", self.query_value_weights(), strict=True):
            a, b = self.factors(side)  # type: ignore[arg-type]
            product = torch.addmm(weight, b, a, alpha=self.lora.alpha)
            norms = getattr(self, f"dora_{side}", None)
            adapted.append(product if norms is None else dora_weight(product, norms, self.lora.dora))  # type: ignore[arg-type]
        return adapted[0], adapted[1]

    @torch.no_grad()
    def reset_magnitudes(self) -> None:
        r"""Set DoRA's norms to those of :math:`W + \alpha BA` as it stands, so that they change nothing yet."""
        if self.lora is None or self.lora.dora is None:
            return
        for side, weight in zip("qv", self.query_value_weights(), strict=True):
            a, b = self.factors(side)  # type: ignore[arg-type]
            norms = magnitude(torch.addmm(weight, b, a, alpha=self.lora.alpha), self.lora.dora)
            getattr(self, f"dora_{side}").copy_(norms)


def add_product(y: Tensor, z: Tensor, b: Tensor, alpha: float) -> Tensor:
    r""":math:`y + \alpha z B^T` in one pass, with ``y`` (…, out) and ``z = A x`` (…, r)."""
    return torch.addmm(y.reshape(-1, y.shape[-1]), z.reshape(-1, z.shape[-1]), b.mT, alpha=alpha).view(y.shape)


def add_low_rank(y: Tensor, x: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    r""":math:`y + \alpha B A x`, with ``x`` (…, in) and ``y`` (…, out)."""
    return add_product(y, F.linear(x, a), b, alpha)
