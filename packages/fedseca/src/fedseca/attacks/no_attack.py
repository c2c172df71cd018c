"""No attack."""

from shared.federated.attack import Attack


class NoAttack(Attack):
    """Hostile in name only: honest training, honest upload. The reference point of every comparison.

    Example:
        >>> import torch
        >>> NoAttack()(torch.tensor([[1.0], [2.0], [3.0]]), byzantine=[2], client_ids=[0, 1, 2])
        tensor([[3.]])
    """
