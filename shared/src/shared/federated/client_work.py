"""The clients' part of a round: who trains whom, each client's own work, and what is remembered of it."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from shared.errors import RunError, UsageError
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining, LocalResult, train_locally
from shared.federated.client_states import optimizer_tensors, restore_optimizer
from shared.federated.evaluation import EvaluatedModule
from shared.federated.exchange import owner_of, share_reports, share_rows
from shared.federated.progress import RoundBar
from shared.federated.seeds import derived_generator, derived_seed, global_seed
from shared.federated.uploads import is_finite, upload_fault
from shared.federated.vectors import VectorLayout
from shared.task import Task


class ClientWork(EvaluatedModule):
    """Trains the clients of a round one after the other, each from the global model on its own data.

    Attributes:
        attack: What hostile clients do.
        byzantine: Ids of the hostile clients.
        client: The local training recipe.
        client_rounds: Client to the last round after which its state was stored.
        layout: Where each communicated tensor lies in a vector.
        seed: Seed of everything random in the rounds.
    """

    attack: Attack
    byzantine: tuple[int, ...]
    client: ClientTraining
    client_rounds: dict[int, int]
    layout: VectorLayout
    seed: int

    def _train_clients(
        self, round: int, participants: list[int], state: dict[str, Tensor], origin: Tensor, rows: Tensor
    ) -> dict[int, dict[str, Any]]:
        """Fill ``rows`` with origin minus each client's result; reports by position in ``participants``."""
        reports: dict[int, dict[str, Any]] = {}
        for position, client in enumerate(participants):
            if owner_of(position, self.trainer.world_size) != self.trainer.global_rank:
                continue
            report: dict[str, Any] = {"failure": "", "samples": 0, "loss": float("nan")}
            try:
                with torch.enable_grad():
                    upload, result = self.train_client(round, client, state, (position + 1, len(participants)))
                report |= {"samples": result.samples, "loss": result.loss}
                fault = "no training samples" if result.samples == 0 else upload_fault(upload, state)
                if fault is None:
                    self.layout.difference(origin, upload, out=rows[position])
                    fault = None if is_finite(rows[position]) else "NaN or infinite values"
                if fault is None:
                    if self.client.keep_optimizer:  # only now: a client that failed goes on from its last good state
                        self._scratch["states"].save(client, round, optimizer_tensors(self._scratch["optimizer"]))
                    report["counters"] = {
                        name: tensor.tolist() for name, tensor in upload.items() if not tensor.is_floating_point()
                    }
                report["failure"] = fault or ""
            except (UsageError, RunError):
                raise
            except Exception as error:  # whatever a client's code raises costs that client its round, nothing else
                report["failure"] = f"{type(error).__name__}: {error}"
            reports[position] = report
        if self.trainer.world_size > 1:
            share_rows(rows)
            reports = share_reports(reports, origin.device)
        return reports

    def train_client(
        self, round: int, client: int, state: Mapping[str, Tensor], place: tuple[int, int] = (1, 1)
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """One client's work from the global ``state``: the tensors that it uploads and what it reports."""
        worker = self._worker()
        own = worker.state_dict()
        for name, tensor in state.items():
            own[name].copy_(tensor)
        optimizer = self.client.optimizer(p for p in worker.parameters() if p.requires_grad)
        if self.client.keep_optimizer and client in self.client_rounds:
            restore_optimizer(optimizer, self._scratch["states"].load(client, self.client_rounds[client]))
        loader = self.trainer.datamodule.client_loader(  # type: ignore[attr-defined]
            client, derived_generator(self.seed, "shuffle", round, client)
        )
        bar = self.trainer.progress_bar_callback
        steps = len(loader) * self.client.epochs
        poison = self._poison if client in self.byzantine else None
        with global_seed(derived_seed(self.seed, "client", round, client), self.device):
            result = train_locally(
                worker,
                loader,
                self.client,
                optimizer,
                poison=poison,
                to_device=self.transfer_batch_to_own_device,
                forward_context=self.trainer.precision_plugin.forward_context,
                on_step=lambda step: bar.client_step(*place, step, steps) if isinstance(bar, RoundBar) else None,
            )
        self._scratch["optimizer"] = optimizer
        return {name: own[name] for name in state}, result

    def _worker(self) -> Task:
        """The working copy that clients train one after the other."""
        if self._scratch.get("worker") is None:
            worker = deepcopy(self.local)
            worker.requires_grad_(True)
            self._scratch["worker"] = worker
        return self._scratch["worker"]

    def _poison(self, batch: Any) -> Any:
        return self.attack.poison(batch, getattr(self.local, "num_classes", None))
