"""The peers of aggregators.py: plain transcriptions of the rules' formulas in torch, one library call per step."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def naive_fedseca(g: Tensor, gamma: float = 0.9) -> Tensor:
    """The steps of the released variant in the words of the paper: pairs in loops, one library call per step."""
    k, d = g.shape
    signs = torch.sign(g)
    omega = torch.zeros(k, k)
    for i in range(k):
        for j in range(k):
            omega[i, j] = (signs[i] * signs[j]).sum() / d
    rho = omega.sign().mean(1).clamp(min=0)
    norms = g.norm(dim=1)
    clipped = g * (norms.median() / norms).clamp(max=1)[:, None]
    mu = clipped.abs().median(dim=0).values
    x = g.clamp(-mu, mu)
    for i in range(k):
        x[i][g[i].abs() < float(np.quantile(g[i].abs().numpy().astype(np.float64), gamma))] = 0
    elected = (rho[:, None] * x.sign()).sum(0).sign()
    aligned = elected * x > 0
    return (x * aligned).sum(0) / aligned.sum(0).clamp(min=1)


def naive_huber(g: Tensor, threshold: float, iterations: int = 100, tolerance: float = 1e-3) -> Tensor:
    """Every step over the whole matrix."""
    c = torch.zeros_like(g[0])
    for _ in range(iterations):
        beta = (threshold / (g - c).norm(dim=1).clamp(min=1e-6)).clamp(max=1)
        before, c = c, (beta[:, None] * g).sum(0) / beta.sum()
        if (c - before).norm() < tolerance:
            break
    return c


def naive_krum(g: Tensor, b: int, m: int = 1) -> Tensor:
    """Distances of all pairs, sums of the nearest, the mean of the best."""
    near = torch.cdist(g, g).square().sort(dim=1).values[:, : len(g) - b - 1]
    return g[near.sum(1).topk(m, largest=False).indices].mean(0)


def naive_clipping(g: Tensor, tau: float = 100.0, iterations: int = 3) -> Tensor:
    """From zero, every step over the whole matrix."""
    m = torch.zeros_like(g[0])
    for _ in range(iterations):
        away = g - m
        m = m + (away * (tau / away.norm(dim=1)).clamp(max=1)[:, None]).mean(0)
    return m


def naive_buckets(g: Tensor, size: int = 2) -> Tensor:
    """Means of neighbours in a random order."""
    return g[torch.randperm(len(g))].reshape(-1, size, g.shape[1]).mean(1)


def naive_sequential_buckets(g: Tensor, tau: float = 100.0) -> Tensor:
    """In the first round, where nobody agrees with anything: one client of each half after the other."""
    m, half = torch.zeros_like(g[0]), len(g) // 2
    for first, second in zip(torch.randperm(half), half + torch.randperm(half), strict=True):
        away = g[[int(first), int(second)]] - m
        m = m + (away * (tau / away.norm(dim=1)).clamp(max=1)[:, None]).mean(0)
    return m


def naive_rfa(g: Tensor, nu: float, iterations: int = 3) -> Tensor:
    """Weiszfeld's steps over the whole matrix."""
    v = torch.zeros_like(g[0])
    for _ in range(iterations):
        beta = 1 / (g - v).norm(dim=1).clamp(min=nu)
        v = (beta[:, None] * g).sum(0) / beta.sum()
    return v


def naive_meamed(g: Tensor, b: int) -> Tensor:
    """The nearest to the median, by index."""
    away = (g - g.median(dim=0).values).abs()
    return g.gather(0, away.topk(len(g) - b, dim=0, largest=False).indices).mean(0)


def naive_monna(g: Tensor, b: int) -> Tensor:
    """The nearest to the first."""
    return g[(g - g[0]).norm(dim=1).topk(len(g) - b, largest=False).indices].mean(0)


def naive_nnm(g: Tensor, b: int) -> Tensor:
    """For each client the mean of its nearest."""
    nearest = torch.cdist(g, g).topk(len(g) - b, dim=1, largest=False).indices
    return torch.stack([g[rows].mean(0) for rows in nearest])


def naive_bulyan(g: Tensor, b: int) -> Tensor:
    """Distances once, then Krum again and again, then a mean around the median by index."""
    distances = torch.cdist(g, g).square()
    left, chosen = list(range(len(g))), []
    for _ in range(len(g) - 2 * b):
        near = distances[left][:, left].sort(dim=1).values[:, : max(len(left) - b - 1, 2)]
        chosen.append(left.pop(int(near.sum(1).argmin())))
    rows = g[chosen]
    away = (rows - rows.median(dim=0).values).abs()
    return rows.gather(0, away.topk(len(rows) - 2 * b, dim=0, largest=False).indices).mean(0)


def naive_distances(g: Tensor) -> tuple[Tensor, Tensor]:
    """The two tables of DOS, a client at a time."""
    euclidean = torch.stack([(g - row).norm(dim=1) for row in g])
    cosine = torch.stack([1 - torch.nn.functional.cosine_similarity(g, row[None], dim=1) for row in g])
    return euclidean, cosine


def naive_copod(table: Tensor) -> Tensor:
    """Tail probabilities by comparing all pairs."""
    left = -((table[:, None] >= table).double().mean(1)).log()
    right = -((table[:, None] <= table).double().mean(1)).log()
    skew = (table - table.mean(0)).pow(3).sum(0)
    tail = torch.where(skew < 0, left, right)
    return torch.maximum(tail, (left + right) / 2).sum(1)


def naive_dos(g: Tensor) -> Tensor:
    """Scores of both tables, then the weighted sum over a weighted copy."""
    euclidean, cosine = naive_distances(g)
    weights = torch.softmax(-naive_copod(euclidean) - naive_copod(cosine), 0)
    return (weights[:, None].float() * g).sum(0)


def naive_ties(g: Tensor, gamma: float) -> Tensor:
    """One library call per step."""
    thresholds = np.quantile(g.abs().numpy(), gamma, axis=1)
    x = torch.where(g.abs() < torch.from_numpy(thresholds)[:, None], 0.0, g)
    aligned = x * x.sum(0).sign() > 0
    return (x * aligned).sum(0) / aligned.sum(0).clamp(min=1)


def naive_dnc(g: Tensor, b: int) -> Tensor:
    """A singular value decomposition of the sampled columns."""
    rows = g[:, torch.randperm(g.shape[1])[:10_000]]
    centred = rows - rows.mean(0)
    scores = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]).square()
    return g[scores.argsort()[: len(g) - b]].mean(0)


def naive_sign_guard(g: Tensor) -> Tensor:
    """Without its clustering, which costs nothing for 20 clients: norms, shares of signs, clipped mean."""
    norms = g.norm(dim=1)
    rows = g[:, torch.randperm(g.shape[1])[: g.shape[1] // 10]]
    torch.stack([(rows > 0).float().mean(1), (rows == 0).float().mean(1), (rows < 0).float().mean(1)])
    return (g * (norms.median() / norms).clamp(max=1)[:, None]).mean(0)


def naive_fltrust(g: Tensor, reference: Tensor) -> Tensor:
    """Cosines, then scaled copies of the uploads."""
    trust = torch.nn.functional.cosine_similarity(g, reference[None], dim=1).relu()
    scaled = g * (reference.norm() / g.norm(dim=1))[:, None]
    return (trust[:, None] * scaled).sum(0) / trust.sum()


def byzfl_pipeline(pre: Callable[[Tensor], Tensor], rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One of its steps before one of its rules."""
    return lambda g: rule(pre(g))


class NaiveFLDetector:
    """Dense history matrices, a product with the Hessian per client, and a median; no clustering."""

    def __init__(self, window: int, faithful: bool = False) -> None:
        self.window = window
        self.faithful = faithful
        self.m: list[Tensor] = []
        self.before: Tensor | None = None

    def __call__(self, g: Tensor) -> Tensor:
        if len(self.m) >= 2:
            s = torch.stack(self.m[:-1] if self.faithful else self.m[1:], 1)
            y = torch.stack([a - b for a, b in zip(self.m[:-1], self.m[1:], strict=True)], 1)
            sigma = (y[:, -1] @ s[:, -1]) / (s[:, -1] @ s[:, -1])
            a = s.T @ y
            lower = a - a.triu()
            middle = torch.cat([torch.cat([sigma * s.T @ s, lower], 1), torch.cat([lower.T, -a.diag().diag()], 1)])
            wide = torch.cat([sigma * s, y], 1)

            def times_hessian(v: Tensor) -> Tensor:
                return sigma * v - wide @ (torch.linalg.pinv(middle) @ (wide.T @ v))

            if self.faithful and self.before is not None:
                (g - self.before + times_hessian(self.m[-1])).norm(dim=1)
            else:
                for row in g:
                    (row - times_hessian(row)).norm()
        if self.faithful:
            self.before = g.clone()
        self.m = [*self.m, g.median(dim=0).values][-self.window - 1 :]
        return self.m[-1]
