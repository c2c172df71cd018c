"""Federated training as a LightningModule: one round is one epoch of one step."""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from shared.checkpoints import FORMAT, require_same_tensors
from shared.errors import RunError, UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining, LocalResult, train_locally
from shared.federated.client_states import ClientStates, optimizer_tensors, restore_optimizer
from shared.federated.exchange import owner_of, share_reports, share_rows
from shared.federated.ledger import Entry, Ledger, PayloadMeter
from shared.federated.progress import RoundBar
from shared.federated.reference import needs_reference, reference_update, require_clean_data
from shared.federated.rounds import RoundLog, log_diagnostics, participants_of_round
from shared.federated.seeds import derived_generator, derived_seed, global_seed
from shared.federated.server import combine, replace_hostile
from shared.federated.uploads import is_finite, upload_fault
from shared.federated.vectors import VectorLayout
from shared.runs import run_folder_of
from shared.task import Task


class FederatedModule(LightningModule):
    """Clients train copies of ``local`` on their own data; a server rule combines what they upload.

    The round index is ``current_epoch``, so ``trainer.max_epochs`` counts rounds and checkpoints, loggers, validation
    cadence and resume mean what they mean everywhere in Lightning. All randomness is derived from ``seed``, the round
    and the client, so nothing of it needs saving and neither the order of clients nor their spread over processes
    changes a result.

    Args:
        local: The model and its task.
        aggregator: The server's rule.
        attack: What hostile clients do.
        byzantine: Ids of the hostile clients; fewer than half of all.
        client: The local training recipe.
        regime: ``federated``, or ``centralised``: the same model trained on the pooled data in the ordinary way.
        weighting: ``equal``, or ``samples``: clients count by their number of training samples, for rules that
            look at weights.
        participation: Share of the clients that take part in a round, drawn anew each round; at least one.
        min_clients: Fewest good uploads with which a round still counts.
        include_buffers: Whether floating point buffers (BatchNorm's running statistics) are part of the vector that
            the rule and the attack see; if not they are averaged plainly.
        evaluate_round_start: Log ``…_round_start`` beside every score: that of the model which the round started from.
            Published numbers are often those. It costs one more evaluation at the start of a run, and one before
            each round that follows a round without evaluation.
        seed: Seed of everything random in the rounds.
    """

    local: Task

    def __init__(
        self,
        local: Task,
        aggregator: VectorAggregator | StateRule,
        attack: Attack | None = None,
        byzantine: Sequence[int] = (),
        client: ClientTraining | None = None,
        regime: Literal["federated", "centralised"] = "federated",
        weighting: Literal["equal", "samples"] = "equal",
        participation: float = 1.0,
        min_clients: int = 1,
        include_buffers: bool = True,
        evaluate_round_start: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < participation <= 1:
            raise UsageError(f"model.participation must be above 0 and at most 1, got {participation}")
        if len(set(byzantine)) != len(byzantine):
            raise UsageError(f"model.byzantine must name each hostile client once, got {list(byzantine)}")
        self.local = local
        self.aggregator = aggregator
        self.attack = attack or Attack()
        self.byzantine = tuple(sorted(byzantine))
        self.client = client or ClientTraining()
        self.regime = regime
        self.weighting = weighting
        self.participation = participation
        self.min_clients = min_clients
        self.evaluate_round_start = evaluate_round_start
        self.seed = seed
        self.automatic_optimization = regime == "centralised"

        state = self.communicated()
        buffers = frozenset(name for name, _ in local.named_buffers())
        self.layout = VectorLayout(state, last=frozenset() if include_buffers else buffers)
        self.meter = PayloadMeter({"parameters": frozenset(state) - buffers, "buffers": buffers & frozenset(state)})
        self.ledger = Ledger()
        self.client_rounds: dict[int, int] = {}
        if regime == "federated":
            # An optimiser with rate 0 is what makes Lightning count steps; its parameter is never communicated.
            self.clock = nn.Parameter(torch.zeros(()))
            local.requires_grad_(False)
            if isinstance(aggregator, VectorAggregator):
                aggregator.setup(self.layout.head)
            else:
                aggregator.setup(state)
            self.attack.setup(self.layout.head)
        # Not registered as submodules: they are scratch space, no part of the model.
        self._scratch: dict[str, Any] = {}

    # ------------------------------------------------------------------ what travels

    def communicated(self) -> dict[str, Tensor]:
        """The named tensors that clients and server exchange: the whole state of ``local``."""
        return dict(self.local.state_dict())

    # ------------------------------------------------------------------ Lightning hooks

    def setup(self, stage: str) -> None:
        """Check the configuration against the data and the trainer."""
        if stage != "fit" or self.regime != "federated":
            return
        clients = len(self.client_ids)
        unknown = [k for k in self.byzantine if k not in self.client_ids]
        if unknown:
            raise UsageError(f"model.byzantine must name clients of 0 .. {clients - 1}, got {unknown[0]}")
        if self.byzantine and 2 * len(self.byzantine) >= clients:
            raise UsageError(
                f"model.byzantine must leave more honest than hostile clients, "
                f"got {len(self.byzantine)} hostile of {clients}"
            )
        if isinstance(self.aggregator, VectorAggregator):
            self.aggregator.check(max(1, round(self.participation * clients)))
        require_clean_data(self.aggregator, self.trainer.datamodule)  # type: ignore[attr-defined]
        if str(self.trainer.precision) == "16-mixed":
            raise UsageError(
                "trainer.precision 16-mixed needs a loss scaler per client, which rounds do not keep: "
                "use bf16-mixed or 32-true"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The clock of the rounds, or the client's optimiser on the pooled data."""
        if self.regime == "centralised":
            return self.client.optimizer(self.local.parameters())
        return torch.optim.SGD([self.clock], lr=0.0)

    def on_train_start(self) -> None:
        """Find the run folder and drop rows of rounds that will be run again."""
        if self.regime == "centralised":
            return
        folder = run_folder_of(self.trainer)
        self._scratch["folder"] = folder
        self._scratch["states"] = ClientStates(folder and folder / "clients")
        self._scratch["rounds"] = RoundLog(folder, first=self.current_epoch)
        template = self.communicated()
        self._scratch["worker"] = None
        self._scratch["template"] = {name: tensor.clone() for name, tensor in template.items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Advance the clock by one round, or (centralised) take an ordinary step."""
        if self.regime == "centralised":
            loss = self.local.loss(batch)
            self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=self._many)
            return loss
        self.optimizers().step()  # type: ignore[union-attr]
        return None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Run the round here: this hook stands outside any distributed wrapper, ``training_step`` inside it."""
        if self.regime == "federated":
            if self.evaluate_round_start:
                self._log_round_start(self.current_epoch)
            self.run_round(self.current_epoch)

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what lies outside the tensors: format, ledger totals, where client states stand."""
        checkpoint["federated"] = {
            "format": FORMAT,
            "ledger": self.ledger.state_dict(),
            "client_rounds": {str(k): r for k, r in self.client_rounds.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model before anything is loaded."""
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), what="the checkpoint")
        extra = checkpoint.get("federated")
        if extra is not None:
            self.ledger.load_state_dict(extra["ledger"])
            self.client_rounds = {int(k): r for k, r in extra["client_rounds"].items()}

    # ------------------------------------------------------------------ a round

    @property
    def _many(self) -> bool:
        """Whether several processes run this; all of them log the same values, whose mean they are."""
        return self.trainer.world_size > 1

    @property
    def client_ids(self) -> list[int]:
        """All clients of the data, ascending."""
        return list(self.trainer.datamodule.client_ids)  # type: ignore[attr-defined]

    @torch.no_grad()
    def run_round(self, round: int) -> None:
        """One round: local training, attack, server rule, new global model; see the class.

        Raises:
            RunError: Fewer than ``min_clients`` (or than the rule needs) good uploads.
        """
        began = time.perf_counter()
        state = self.communicated()
        participants = participants_of_round(self.client_ids, self.participation, self.seed, round)
        origin, rows = self._working_memory(len(participants), state)
        reports = self._train_clients(round, participants, state, origin, rows)
        reference = self._reference(round, state, origin) if needs_reference(self.aggregator) else None
        trained = time.perf_counter()

        failures = {participants[i]: r["failure"] for i, r in reports.items() if r["failure"]}
        good = [i for i, r in reports.items() if not r["failure"]]
        self._require(len(good), participants, failures)
        updates = rows if len(good) == len(participants) else rows[good]
        ids = [participants[i] for i in good]
        hostile = [i for i, k in enumerate(ids) if k in self.byzantine]
        if hostile:
            head = self.layout.head
            broken = replace_hostile(
                self.attack,
                updates[:, :head],
                hostile,
                ids=ids,
                origin=origin[:head],
                round=round,
                aggregator=self.aggregator,
                generator=derived_generator(self.seed, "attack", round),
            )
            failures |= {ids[i]: "NaN or infinite values" for i in broken}
            if broken:
                kept = [i for i in range(len(ids)) if i not in broken]
                updates, ids, good = updates[kept], [ids[i] for i in kept], [good[i] for i in kept]
                self._require(len(good), participants, failures)

        samples = torch.tensor([reports[i]["samples"] for i in good], dtype=torch.float64)
        weights = samples / samples.sum() if self.weighting == "samples" else torch.full_like(samples, 1 / len(ids))
        combine(
            self.aggregator,
            self.layout,
            updates,
            state,
            origin=origin,
            weights=weights,
            ids=ids,
            round=round,
            counters=reports[good[0]]["counters"],
            reference=reference,
        )
        self._log_round(round, participants, reports, failures, ids, began, trained)

    def _working_memory(self, participants: int, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The global vector and room for a ``(K, d)`` matrix of updates; the memory is kept from round to round."""
        buffer = self._scratch.get("buffer")
        if buffer is None or len(buffer) <= participants or buffer.device != self.device:
            buffer = torch.empty(1 + participants, self.layout.size, device=self.device)
            self._scratch["buffer"] = buffer
        return self.layout.flatten(state, out=buffer[0]), buffer[1 : 1 + participants]

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

    def _reference(self, round: int, state: Mapping[str, Tensor], origin: Tensor) -> Tensor:
        """What the server's own clean data ask for."""
        return reference_update(
            self._worker(),
            self.trainer.datamodule,  # type: ignore[attr-defined]
            self.client,
            self.layout,
            state,
            origin,
            seed=self.seed,
            round=round,
            to_device=self.transfer_batch_to_own_device,
            forward_context=self.trainer.precision_plugin.forward_context,
        )

    def transfer_batch_to_own_device(self, batch: Any) -> Any:
        """Move a batch to the device of the model."""
        return self.trainer.strategy.batch_to_device(batch, self.device)

    def _worker(self) -> Task:
        """The working copy that clients train one after the other."""
        if self._scratch.get("worker") is None:
            worker = deepcopy(self.local)
            worker.requires_grad_(True)
            self._scratch["worker"] = worker
        return self._scratch["worker"]

    def _poison(self, batch: Any) -> Any:
        return self.attack.poison(batch, getattr(self.local, "num_classes", None))

    def _require(self, good: int, participants: list[int], failures: dict[int, str]) -> None:
        """Stop with one sentence if too few uploads are left."""
        needed = max(self.min_clients, self.aggregator.min_clients)
        if good < needed:
            told = "; ".join(f"client {client}: {reason}" for client, reason in failures.items())
            raise RunError(
                f"round {self.current_epoch} has {good} good uploads of {len(participants)}, needs {needed} ({told})"
            )

    # ------------------------------------------------------------------ records

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the federation."""
        return {
            "regime": self.regime,
            "aggregator": type(self.aggregator).__name__,
            "attack": type(self.attack).__name__,
            "byzantine": list(self.byzantine),
            "weighting": self.weighting,
            "participation": self.participation,
            "coordinates": self.layout.size,
            "payload_bytes": sum(self.meter.measure(self.communicated()).values()),
            "bytes": dict(self.ledger.totals),
        }

    def _log_round(
        self,
        round: int,
        participants: list[int],
        reports: dict[int, dict[str, Any]],
        failures: dict[int, str],
        ids: list[int],
        began: float,
        trained: float,
    ) -> None:
        """Ledger, ``rounds.csv``, diagnostics and the row of ``metrics.csv``."""
        folder: Path | None = self._scratch["folder"] if self.trainer.is_global_zero else None
        payload = self.meter.measure(self._scratch["template"])
        for position, client in enumerate(participants):
            came = not reports[position]["failure"]
            if came:
                self.client_rounds[client] = round
            for component, size in payload.items():
                self.ledger.add(Entry(round, client, "down", component, size))
                if came:
                    self.ledger.add(Entry(round, client, "up", component, size))
        self.ledger.close_round(folder and folder / "ledger.csv")
        finished = time.perf_counter()
        if folder is not None:
            self._scratch["rounds"].write(round, participants, failures, finished - began)
        losses = [r["loss"] for i, r in reports.items() if not r["failure"] and participants[i] not in self.byzantine]
        values = {
            "train/loss": sum(losses) / len(losses) if losses else float("nan"),
            "round/seconds": finished - began,
            "round/server_seconds": finished - trained,
            "round/failures": float(len(failures)),
            "round/bytes_down": float(self.ledger.last_round["down"]),
            "round/bytes_up": float(self.ledger.last_round["up"]),
        }
        values |= log_diagnostics(self.aggregator.diagnostics, ids, round, folder)
        # Logged with the step, so that they stand in the file before the round's checkpoint does.
        self.log_dict(values, on_step=True, on_epoch=False, batch_size=1, sync_dist=self._many)
