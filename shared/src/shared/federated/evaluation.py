"""Evaluation inside a federated run: scores of the model after each round, and of the one that a round starts from."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from shared.errors import UsageError
from shared.task import Task

LISTED_CLIENTS = 20
"""Up to so many clients have columns of their own in the log."""


def scalars(metrics: Metric) -> dict[str, Tensor]:
    """The scores that are single numbers."""
    return {name: value for name, value in metrics.compute().items() if value.ndim == 0}


def mean_scores(table: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each score's mean over clients, every client counting alike."""
    rows = list(table.values())
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


def merged(parts: Sequence[Metric]) -> Metric:
    """One metric over the items of all ``parts``, none of them computed yet, in their order; they stay as they are."""
    whole = parts[-1].clone()
    for part in reversed(parts[:-1]):
        whole.merge_state(part)  # puts the other's items in front
    return whole


def collaborative_gain(federated: Mapping[int, float], local: Mapping[int, float]) -> float:
    r"""What clients gain by training together: :math:`\frac1K \sum_k (s_k^{federated} - s_k^{local})`.

    Args:
        federated: Client to the score of the federated model on its data (``client_K/NAME`` of a federated run).
        local: Client to the score of its own model on the same data (the same columns where ``regime`` is ``local``).

    Raises:
        UsageError: The two are not of the same clients, or of none.

    Example:
        >>> collaborative_gain({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.5})
        0.125
    """
    if not federated or federated.keys() != local.keys():
        raise UsageError(
            f"a collaborative gain needs scores of the same clients from both runs, "
            f"got {sorted(federated)} and {sorted(local)}"
        )
    return sum(federated[k] - local[k] for k in federated) / len(federated)


class EvaluatedModule(LightningModule):
    """A module that holds a task and scores it: validation, test and prediction.

    Attributes:
        local: The model and its task.
        model_metrics: Client to the metrics of its own model in the last evaluation, where clients have their own.
    """

    local: Task

    def __init__(self) -> None:
        super().__init__()
        # Not registered as submodules: scratch space, no part of the model.
        self._scratch: dict[str, Any] = {}
        self._eval_clients: list[int] = []
        self._of_clients: dict[int, Metric] = {}
        self.model_metrics: dict[int, Metric] = {}
        # The clients' own tensors, read once per evaluation.
        self._recalled: dict[int, dict[str, Tensor]] = {}

    @property
    def _many(self) -> bool:
        """Whether several processes run this; all of them log the same values, whose mean they are."""
        return self.trainer.world_size > 1

    def on_validation_epoch_start(self) -> None:
        self._start_scoring()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the evaluation set."""
        self._score(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the global model, or of the clients' own, after the round."""
        scores = self._log_evaluation(self._validation_prefix)
        if not self.trainer.sanity_checking:
            self._scratch["scores"] = (self.current_epoch + 1, scores)

    def on_test_epoch_start(self) -> None:
        self._start_scoring()

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the test set."""
        self._score(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole test set."""
        self._log_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Predictions of the global model."""
        return self.local.predict_step(batch, batch_idx)

    # ------------------------------------------------------------------ one evaluation

    def owners(self) -> list[int]:
        """The clients whose own models are scored in place of a global one; none by default."""
        return []

    def model_of(self, client: int) -> Task:
        """The model that ``client`` uses, ready for evaluation: by default the one that all share."""
        return self.local

    def _start_scoring(self) -> None:
        self._recalled.clear()
        self.local.metrics.reset()
        own = getattr(self.trainer.datamodule, "eval_clients", None)  # type: ignore[attr-defined]
        self._eval_clients = list(own or [])
        self._of_clients = {k: self._empty_metrics() for k in self._eval_clients}
        self.model_metrics = {k: self._empty_metrics() for k in self.owners()}

    def _empty_metrics(self) -> Metric:
        metrics = self.local.metrics.clone()
        metrics.reset()
        return metrics

    def _score(self, batch: Any, loader: int) -> None:
        """One pass of each model over the batch; a second one where a client's own differs from the shared one."""
        client = self._eval_clients[loader] if self._eval_clients else None
        for k, metrics in self.model_metrics.items():
            self.model_of(k).update(metrics, batch)
        if client is not None:
            model = self.model_of(client)
            model.update(self._of_clients[client], batch)
            if model is self.local:
                return  # the pooled scores are put together from these
        if not self.model_metrics:
            self.local.update(self.local.metrics, batch)

    def _log_evaluation(self, prefix: str) -> dict[str, Tensor]:
        """Log what was counted: ``NAME`` pooled, ``client_K/NAME`` on a client's own data, ``clients/NAME`` their mean.

        Where every client has a model of its own, ``model_K/NAME`` is that of client ``K`` on the pooled set and the
        pooled ``NAME`` the mean of these.
        """
        self._recalled.clear()
        values: dict[str, Tensor] = {}
        # Merged before anything is computed, since a metric remembers its result.
        parts = self.model_metrics or self._of_clients
        if parts and not self.local.metrics.update_called:
            self.local.metrics = merged(list(parts.values()))
        of_clients = {k: scalars(metrics) for k, metrics in self._of_clients.items()}
        of_models = {k: scalars(metrics) for k, metrics in self.model_metrics.items()}
        scores = mean_scores(of_models) if of_models else scalars(self.local.metrics)
        for word, table in (("client", of_clients), ("model", of_models)):
            if len(table) <= LISTED_CLIENTS:
                values |= {f"{word}_{k}/{name}": value for k, row in table.items() for name, value in row.items()}
        if of_clients:
            values |= {f"clients/{name}": value for name, value in mean_scores(of_clients).items()}
        self.log_dict({f"{prefix}/{name}": v for name, v in (scores | values).items()}, sync_dist=self._many)
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
        loaders = loader if isinstance(loader, list) else [loader]
        limit = self.trainer.limit_val_batches
        counts = [limit if isinstance(limit, int) else int(limit * len(loader)) for loader in loaders]
        if not any(counts):
            return {}
        # A copy, since whoever asks after the run wants to find the scores of the last validation in the original.
        metrics, training = self._empty_metrics(), self.local.training
        self.local.eval()
        for loader, batches in zip(loaders, counts, strict=True):
            for batch in islice(loader, batches):
                with self.trainer.precision_plugin.forward_context():
                    self.local.update(metrics, self.transfer_batch_to_own_device(batch))
        self.local.train(training)
        return scalars(metrics)

    def transfer_batch_to_own_device(self, batch: Any) -> Any:
        """Move a batch to the device of the model."""
        return self.trainer.strategy.batch_to_device(batch, self.device)
