"""Label flipping: honest training on false labels."""

from typing import Any

from shared.errors import UsageError
from shared.federated.attack import Attack


class LabelFlip(Attack):
    """Hostile clients train on labels ``y -> C - 1 - y``, with ``C`` the number of outputs of the model.

    Source: Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX Security 2020.

    Raises:
        UsageError: From :meth:`poison`, when the number of classes is not known.

    Example:
        >>> import torch
        >>> LabelFlip().poison((torch.zeros(2, 3), torch.tensor([0, 3])), num_classes=10)[1]
        tensor([9, 6])
    """

    def poison(self, batch: Any, num_classes: int | None) -> Any:
        """Flip the labels of a batch ``(x, y)``; the batch itself stays as it is."""
        if num_classes is None:
            raise UsageError("LabelFlip needs a task with a number of classes, got none")
        x, y = batch
        return x, num_classes - 1 - y
