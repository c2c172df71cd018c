"""Evaluation inside a federated run: scores of the model after each round, and of the one that a round starts from."""

from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from shared.task import Task


class EvaluatedModule(LightningModule):
    """A module that holds a task and scores it: validation, test and prediction.

    Attributes:
        local: The model and its task.
    """

    local: Task

    def __init__(self) -> None:
        super().__init__()
        # Not registered as submodules: scratch space, no part of the model.
        self._scratch: dict[str, Any] = {}

    @property
    def _many(self) -> bool:
        """Whether several processes run this; all of them log the same values, whose mean they are."""
        return self.trainer.world_size > 1

    def on_validation_epoch_start(self) -> None:
        self.local.metrics.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch of the pooled evaluation set."""
        self.local.update(self.local.metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the global model after the round."""
        scores = self._log_evaluation(self._validation_prefix)
        if not self.trainer.sanity_checking:
            self._scratch["scores"] = (self.current_epoch + 1, scores)

    def on_test_epoch_start(self) -> None:
        self.local.metrics.reset()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch of the test set."""
        self.local.update(self.local.metrics, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole test set."""
        self._log_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Predictions of the global model."""
        return self.local.predict_step(batch, batch_idx)

    def _log_evaluation(self, prefix: str) -> dict[str, Tensor]:
        scores = {name: value for name, value in self.local.metrics.compute().items() if value.ndim == 0}
        self.log_dict({f"{prefix}/{name}": value for name, value in scores.items()}, sync_dist=self._many)
        return scores

    @property
    def _validation_prefix(self) -> str:
        on_test = getattr(self.trainer.datamodule, "val_is_test", False)  # type: ignore[attr-defined]
        return "test" if on_test else "val"

    def _log_round_start(self, round: int) -> None:
        """Log the scores of the model as it stands; the last validation has them, unless it was longer ago."""
        known, scores = self._scratch.get("scores", (None, {}))
        if known != round:
            scores = self._evaluate()
        values = {f"{self._validation_prefix}/{name}_round_start": value for name, value in scores.items()}
        self.log_dict(values, on_step=True, on_epoch=False, batch_size=1, sync_dist=self._many)

    @torch.no_grad()
    def _evaluate(self) -> dict[str, Tensor]:
        """Scores of the model as it stands on the validation data, as many batches as the trainer is set to take."""
        loader = self.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        limit = self.trainer.limit_val_batches
        batches = limit if isinstance(limit, int) else int(limit * len(loader))
        if batches == 0:
            return {}
        # A copy, since whoever asks after the run wants to find the scores of the last validation in the original.
        metrics, training = self.local.metrics.clone(), self.local.training
        metrics.reset()
        self.local.eval()
        for batch in islice(loader, batches):
            with self.trainer.precision_plugin.forward_context():
                self.local.update(metrics, self.transfer_batch_to_own_device(batch))
        self.local.train(training)
        return {name: value for name, value in metrics.compute().items() if value.ndim == 0}

    def transfer_batch_to_own_device(self, batch: Any) -> Any:
        """Move a batch to the device of the model."""
        return self.trainer.strategy.batch_to_device(batch, self.device)
