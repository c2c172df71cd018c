"""DnC, divide and conquer: leave out who sticks out along the direction in which clients differ most."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, peaks
from fedseca.subsample import subsample
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def spectral_scores(rows: Tensor) -> Tensor:
    r"""Squared projections of the centred rows on their first principal direction.

    For the centred matrix :math:`A = U \Sigma V^\top` these are
    :math:`\langle a_k, v_1 \rangle^2 = \sigma_1^2 u_{k1}^2`, so the eigenvectors of the small :math:`A A^\top` suffice.

    Args:
        rows: ``(K, n)`` finite; read only.

    Returns:
        ``(K,)`` float64.

    Example:
        >>> spectral_scores(torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.5]])).round()
        tensor([ 9.,  9., 36.], dtype=torch.float64)
    """
    centred = rows.double()
    centred = centred - centred.mean(0)
    # Scaled, so that squares of the largest numbers stay finite.
    scale = centred.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    centred /= scale
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    return vectors[:, -1].square() * values[-1] * scale.square()


class DnC(VectorAggregator):
    r"""The mean of the uploads that no draw of coordinates shows among the outliers.

    Repeat: draw ``sample`` coordinates, score every client by its squared projection on the first principal direction
    of the centred sample, and strike out the :math:`\lfloor c b \rfloor` highest scores. The mean is over those never
    struck out; where nobody is left the model stays as it is. Draws depend on the seed and the round alone; ties strike
    out the highest client id. Uploads that hold NaN or infinity are left out first.

    Source: Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
    Federated Learning", NDSS 2021, Algorithm 2.

    Args:
        b: Assumed number of hostile clients.
        iterations: How many draws.
        sample: How many coordinates in each.
        c: How many clients to strike out for each assumed hostile one.
        seed: Of the draws.

    Attributes:
        diagnostics: ``kept`` (K,), 1 for a client in the mean, else 0, and ``dropped``, how many uploads were not
            finite.

    Raises:
        UsageError: An argument is out of range, or every finite upload would be struck out.

    Example:
        >>> uploads = torch.tensor([[1.0, 1.0], [1.0, 2.0], [3.0, 1.5], [-50.0, 7.0]])
        >>> DnC(b=1)(uploads)
        tensor([1.6667, 1.5000])
    """

    def __init__(self, b: int = 1, iterations: int = 1, sample: int = 10_000, c: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"DnC: b must not be negative, got {b}")
        for name, value in (("iterations", iterations), ("sample", sample)):
            if value < 1:
                raise UsageError(f"DnC: {name} must be at least 1, got {value}")
        if not c > 0:
            raise UsageError(f"DnC: c must be positive, got {c}")
        self.struck = int(c * b)
        self.iterations = iterations
        self.sample = sample
        self.seed = seed
        self.min_clients = self.struck + 1

    def check(self, clients: int) -> None:
        """As the base class; everybody would be struck out."""
        if clients <= self.struck:
            raise UsageError(f"DnC strikes out {self.struck} clients and needs more than that, got {clients}")

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
        kept = finite_clients(peaks(updates), "DnC")
        self.check(len(kept))
        good = torch.ones(len(kept), dtype=torch.bool)
        for draw in range(self.iterations):
            rows = subsample(updates, self.sample, self.seed, round, draw)[kept]
            order = spectral_scores(rows).cpu().argsort(stable=True)
            good[order[len(kept) - self.struck :]] = False
        everyone = torch.zeros(len(updates))
        everyone[kept] = good.float()
        self.diagnostics = {"kept": everyone, "dropped": torch.tensor(len(updates) - len(kept))}
        shares = good.double() / good.sum().clamp(min=1)
        return combinations(shares[None], updates, kept)[0]
