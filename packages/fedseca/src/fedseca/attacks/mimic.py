"""Mimic: all hostile clients repeat one honest client, the one along the direction in which clients differ most."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fedseca.attacks.omniscience import benign_rows, known_origin, mean_over, unit
from fedseca.blocks import inner_products
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack

Form = Literal["elementwise", "cited"]
Space = Literal["weights", "updates"]


def spread_direction(rows: Sequence[Tensor], center: Tensor, direction: Tensor, seen: int, form: Form) -> Tensor:
    r"""One step of the running estimate of the direction in which clients differ.

    :math:`z \leftarrow \frac{t}{1+t} z + \frac{1}{1+t} h`, then scaled to length 1, where ``cited`` is Oja's rule,
    :math:`h = \sum_i (x_i - \mu) \langle x_i - \mu, z \rangle`, and ``elementwise`` the released program's
    :math:`h = \frac{c}{\|c\|} \odot z` with :math:`c = \sum_i (x_i - \mu)^2`. Both are even in :math:`x_i - \mu`, so
    weights and pseudo-gradients, which differ by sign and a shift, may stand for each other.

    Args:
        rows: The honest clients' vectors :math:`x_i`, each ``(d,)``; read only.
        center: ``(d,)`` :math:`\mu`, their running mean.
        direction: ``(d,)`` z so far.
        seen: t, how many rounds went before.
        form: Which of the two.

    Returns:
        ``(d,)`` of length 1, or 0 if there is no direction.

    Example:
        >>> rows = [torch.tensor([3.0, 1.0]), torch.tensor([-3.0, -1.0])]
        >>> z = spread_direction(rows, torch.zeros(2), torch.tensor([1.0, 1.0]), seen=0, form="cited")
        >>> z  # along (3, 1)
        tensor([0.9487, 0.3162])
    """
    pull = torch.zeros_like(direction)
    for row in rows:
        gap = row - center
        pull += gap.square_() if form == "elementwise" else gap * float(inner_products([gap], direction))
    if form == "elementwise":
        pull = unit(pull).mul_(direction)
    return unit(pull.add_(direction, alpha=seen))


class Mimic(Attack):
    r"""All hostile clients upload what one honest client uploads, so that it counts several times over.

    For ``warm_up`` rounds the attacker learns the direction z in which the honest clients differ most
    (:func:`spread_direction`) and repeats the honest client with the largest :math:`\langle x_i, z \rangle`; the target
    of the last of these rounds is kept. In a round without the target, the honest client with the largest product
    stands for it. Ties go to the lowest client id. Only honest clients count, and nothing is added to their upload.

    Source: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR
    2022; ``elementwise`` on weights follows the program that FedSECA was compared with.

    Args:
        warm_up: Rounds before the target is kept.
        form: ``elementwise``, or ``cited``.
        space: Whether x are the clients' ``weights`` or their ``updates``.
        seed: Of the first z, drawn from U(0, 1).

    Attributes:
        mean: ``(d,)`` running mean of x; ``None`` before the first round.
        direction: ``(d,)`` z.
        learned: Rounds so far, at most ``warm_up``.
        target: Id of the client that is repeated, -1 before the first round.

    Raises:
        UsageError: An argument is out of range, nobody is honest, the length of the vectors changed, or the global
            vector is not given where ``space`` is ``weights``.

    Example:
        >>> updates = torch.tensor([[1.0, 0.0], [-9.0, 0.0], [7.0, 7.0]])
        >>> Mimic(space="updates")(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[1., 0.]])
    """

    mean: Tensor | None
    direction: Tensor | None
    learned: Tensor
    target: Tensor

    def __init__(self, warm_up: int = 5, form: Form = "elementwise", space: Space = "weights", seed: int = 0) -> None:
        super().__init__()
        if warm_up < 1:
            raise UsageError(f"Mimic: warm_up must be at least 1, got {warm_up}")
        for option, value, kind in (("form", form, Form), ("space", space, Space)):
            if value not in get_args(kind):
                raise UsageError(f"Mimic: {option} must be one of {', '.join(get_args(kind))}, got {value!r}")
        self.warm_up = warm_up
        self.form: Form = form
        self.space: Space = space
        self.seed = seed
        self.register_buffer("mean", None)
        self.register_buffer("direction", None)
        self.register_buffer("learned", torch.tensor(0))
        self.register_buffer("target", torch.tensor(-1))

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate the mean at 0 and draw the first direction."""
        self.mean = torch.zeros(d, device=device)
        self.direction = torch.rand(d, generator=torch.Generator().manual_seed(self.seed)).to(self.mean)

    def forward(
        self,
        updates: Tensor,
        *,
        byzantine: Sequence[int],
        client_ids: Sequence[int],
        origin: Tensor | None = None,
        round: int = 0,
        aggregator: VectorAggregator | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if self.mean is None or self.direction is None:
            self.setup(updates.shape[1], updates.device)
        assert self.mean is not None
        assert self.direction is not None
        if self.mean.shape != updates.shape[1:]:
            raise UsageError(f"Mimic: updates must have {len(self.mean)} coordinates as before, got {updates.shape[1]}")
        honest = benign_rows(len(updates), byzantine, "honest")
        rows = [updates[k] for k in honest]
        ids = [client_ids[k] for k in honest]
        learning = int(self.learned) < self.warm_up
        if learning:
            self._learn(rows, mean_over(updates, honest), origin)
        if learning or int(self.target) not in ids:
            products = inner_products(rows, self.direction.to(updates)).tolist()
            # A weight vector is origin - g: the largest product with it is the smallest with g.
            farthest = products.index(min(products) if self.space == "weights" else max(products))
            if learning:
                self.target.fill_(ids[farthest])
        else:
            farthest = ids.index(int(self.target))
        return rows[farthest].repeat(len(byzantine), 1)

    def _learn(self, rows: Sequence[Tensor], mean: Tensor, origin: Tensor | None) -> None:
        """Take one more round into the running mean and direction."""
        assert self.mean is not None
        assert self.direction is not None
        seen = int(self.learned)
        if self.space == "weights":
            origin = known_origin("Mimic", origin)
            mean = origin - mean
        self.mean = self.mean.to(mean).mul(seen).add_(mean).div_(1 + seen)
        center = self.mean if origin is None or self.space == "updates" else origin - self.mean
        self.direction = spread_direction(rows, center, self.direction.to(mean), seen, self.form)
        self.learned += 1
