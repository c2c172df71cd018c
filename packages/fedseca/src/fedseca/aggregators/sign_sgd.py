"""signSGD with majority vote: every client has one vote per coordinate, and the step is the same everywhere."""

import torch
from torch import Tensor

from fedseca.blocks import chunk_width, finite_clients, peaks, slices
from fedseca.crise import elected_sign
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


class SignSGD(VectorAggregator):
    r"""A step of fixed size along the sign that most clients vote for.

    :math:`m^j = \eta\,\mathrm{sgn}\sum_k \mathrm{sgn}(g_k^j)`: a zero abstains, a tied vote stands still. Uploads that
    hold NaN or infinity are left out.

    Source: Bernstein et al., "signSGD with Majority Vote is Communication Efficient and Fault Tolerant", ICLR 2019,
    Algorithm 1.

    Args:
        step: :math:`\eta`, how far every coordinate moves.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``step`` is not positive, or no upload is finite.

    Example:
        >>> SignSGD(step=0.5)(torch.tensor([[1.0, -2.0, 1.0], [3.0, 5.0, -1.0], [-2e9, -1.0, 0.0]]))
        tensor([ 0.5000, -0.5000,  0.0000])
    """

    def __init__(self, step: float = 1e-3, chunk: int | None = None) -> None:
        super().__init__()
        if not step > 0:
            raise UsageError(f"SignSGD: step must be positive, got {step}")
        self.step = step
        self.chunk = chunk

    def combine(
        self,
        updates: Tensor,
        *,
        origin: Tensor | None,
        weights: Tensor,
        client_ids: tuple[int, ...],
        round: int,
        reference: Tensor | None,
    ) -> Tensor:
        kept = finite_clients(peaks(updates), "SignSGD")
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        votes, out = torch.ones(len(kept)), torch.empty_like(updates[0])
        for columns in slices(len(out), chunk_width(len(kept), out.device, self.chunk)):
            out[columns] = elected_sign([updates[k, columns] for k in kept], votes).mul_(self.step)
        return out
