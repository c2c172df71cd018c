"""Image classification: one module for ordinary training, federated clients and evaluation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from shared.errors import UsageError
from shared.metrics.classification import ClassificationMetrics, check_labels
from shared.task import Task

Batch = tuple[Tensor, Tensor]


class Classifier(Task):
    """A network that maps images to ``C`` logits, trained with cross-entropy and AdamW.

    :meth:`loss` and :meth:`update` need no trainer, so another module may hold this one and train copies of it.
    Weights of classes are no part of ``state_dict``: what a client uploads is the network alone.

    Args:
        network: ``(N, ...)`` images to ``(N, C)`` logits.
        num_classes: Number of classes ``C``.
        class_weights: One positive factor of the training loss per class; ``None`` weighs all alike.
        label_smoothing: Share of the target spread evenly over the classes in the training loss, in [0, 1).
        lr: Learning rate of AdamW, held constant.
        weight_decay: Decoupled weight decay of AdamW.

    Attributes:
        metrics: The scores of the last validation or test, readable until the next one starts.

    Raises:
        UsageError: The weights do not fit the classes, or ``label_smoothing`` is out of range.
    """

    class_weights: Tensor | None
    metrics: ClassificationMetrics

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        if class_weights is not None:
            if len(class_weights) != num_classes:
                raise UsageError(f"class_weights needs one weight per class ({num_classes}), got {class_weights}")
            if not min(class_weights) > 0:  # a batch of weightless items alone would have the loss 0/0
                raise UsageError(f"class_weights must be positive, got {class_weights}")
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.network = network
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.lr = lr
        self.weight_decay = weight_decay
        self.metrics = ClassificationMetrics(num_classes)
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` logits of a batch of images.

        Raises:
            UsageError: The network does not give ``C`` numbers per image.
        """
        logits = self.network(x)
        if logits.shape != (len(x), self.num_classes):
            raise UsageError(
                f"num_classes={self.num_classes} needs a network with outputs of shape {(len(x), self.num_classes)}, "
                f"got {tuple(logits.shape)}"
            )
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Weighted, smoothed cross-entropy of a batch ``(x, y)``; uses no trainer and logs nothing.

        Raises:
            UsageError: A label is outside ``0 .. C - 1``.
        """
        self.check(batch)
        x, y = batch
        return F.cross_entropy(self(x), y.long(), self.class_weights, label_smoothing=self.label_smoothing)

    def item_losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``(N,)`` weighted, smoothed cross-entropy of each item, and ``(N,)`` the weight of its class."""
        x, y = batch
        losses = F.cross_entropy(
            self(x), y.long(), self.class_weights, label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses, torch.ones_like(losses) if self.class_weights is None else self.class_weights[y.long()]

    def check(self, batch: Batch) -> None:
        """Refuse labels outside ``0 .. C - 1``."""
        check_labels(batch[1], self.num_classes)

    @torch.no_grad()
    def update(self, metrics: Metric, batch: Batch) -> None:
        """Add the predictions for a batch ``(x, y)`` to ``metrics``; uses no trainer and logs nothing."""
        x, y = batch
        metrics.update(self(x), y)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        # Reset here, not at the end: whoever asks after the run still finds the confusion matrix and probabilities.
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.update(self.metrics, batch)

    def on_validation_epoch_end(self) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self._log_scores("test" if getattr(datamodule, "val_is_test", False) else "val")

    def on_test_epoch_start(self) -> None:
        self.metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.update(self.metrics, batch)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, prefix: str) -> None:
        # All ranks hold the same scores; sync_dist only tells Lightning that their mean is meant.
        for name, score in self.metrics.compute().items():
            self.log(f"{prefix}/{name}", score, prog_bar=name == "macro_f1", sync_dist=True)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """``(N, C)`` float32 probabilities of a batch of images, with or without labels."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        return self(x).softmax(1, dtype=torch.float32)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
