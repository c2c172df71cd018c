"""MoCo."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from shared.distributed import whole_batch
from shared.precision import at_least_float32
from usssl.backbones import Backbone
from usssl.heads import moco_projector
from usssl.learning_rates import Cosine
from usssl.losses.nt_xent import check_temperature, queue_loss
from usssl.methods.method import Method, Recipe, two_views
from usssl.momentum import Clock, check_momentum, momentum_at, momentum_copy, update_momentum
from usssl.progress import Progress
from usssl.queue import KeyQueue, Wrap


class MoCo(Method):
    """The first view shall find the second, as a momentum copy sees it, among the keys of earlier batches.

    The loss is :func:`~usssl.losses.nt_xent.queue_loss` with the queue as it was before the batch; its keys enter after
    the step, and only in training. As in the reference the temperature is 0.5, the momentum rises from 0.996 to 1, and
    keys are not shuffled between processes. On ResNet-18 24,978,816 parameters, half of them trained.

    Source: He et al., "Momentum Contrast", CVPR 2020; Chen et al., "Improved Baselines", 2020 (the projector).

    Args:
        backbone: The encoder.
        hidden: Width of the projector's hidden layer.
        width: Width of the keys.
        temperature: τ.
        queue_size: Number of keys in the queue.
        wrap: What happens at the queue's end; see :class:`~usssl.queue.KeyQueue`.
        momentum: Of the copy at the start.
        ema_schedule: Whether the momentum is set anew in each epoch (reference) or each step.
    """

    def __init__(
        self,
        backbone: Backbone,
        hidden: int = 2048,
        width: int = 128,
        temperature: float = 0.5,
        queue_size: int = 4096,
        wrap: Wrap = "reference",
        momentum: float = 0.996,
        ema_schedule: Clock = "epoch",
    ) -> None:
        super().__init__(backbone)
        check_temperature(temperature)
        check_momentum(momentum, ema_schedule)
        self.projector = moco_projector(backbone.width, hidden, width)
        self.key_backbone = momentum_copy(backbone)
        self.key_projector = momentum_copy(self.projector)
        self.queue = KeyQueue(queue_size, width, wrap)
        self.temperature = temperature
        self.momentum = momentum
        self.ema_schedule = ema_schedule
        self.waiting: Tensor | None = None

    @staticmethod
    def recipe() -> Recipe:
        return Recipe(partial(SGD, lr=0.03, momentum=0.9, weight_decay=1e-4), Cosine())

    def before_forward(self, progress: Progress) -> None:
        """Move the copies."""
        self.move_copies(momentum_at(self.momentum, self.ema_schedule, progress))

    def move_copies(self, momentum: float) -> None:
        """Parameters of the copies to ``momentum`` times themselves plus the rest of the trained ones."""
        update_momentum(self.backbone, self.key_backbone, momentum)
        update_momentum(self.projector, self.key_projector, momentum)

    def loss(self, batch: Any) -> Tensor:
        view1, view2 = two_views(batch)
        query = self.projector(self.backbone(view1))
        with torch.no_grad():
            key = F.normalize(at_least_float32(self.key_projector(self.key_backbone(view2))), dim=1)
            self.waiting = whole_batch(key) if query.requires_grad else None
        self.embeddings = query.detach()
        return queue_loss(query, key, self.queue.keys, self.temperature)

    def after_step(self) -> None:
        """Put the keys of the last batch in the queue."""
        if self.waiting is not None:
            self.queue.enqueue(self.waiting)
            self.waiting = None
