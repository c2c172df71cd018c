"""Federated training as a LightningModule: one round is one epoch of one step."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shared.checkpoints import FORMAT, require_same_tensors
from shared.errors import UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.client import ClientTraining
from shared.federated.ledger import Entry, Ledger, PayloadMeter
from shared.federated.reference import require_clean_data
from shared.federated.rounds import RoundLog, log_diagnostics, participants_of_round
from shared.federated.server_work import ServerWork, published_weights
from shared.federated.streaming import StreamedMean
from shared.federated.vectors import VectorLayout
from shared.runs import run_folder_of
from shared.schedules import CountsEpochs
from shared.task import Task


class FederatedModule(ServerWork):
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
        regime: ``federated``; ``centralised``: the same model trained on the pooled data in the ordinary way;
            ``local``: every client trains a model of its own on its own data for as many rounds, nothing travels and
            nobody attacks. Scores are then those of each client's own model, and their mean over clients.
        weighting: What clients count by, for rules that look at weights: ``equal``; ``samples``, their number of
            training samples; or ``published``, the data's ``published_weights``.
        participation: Share of the clients that take part in a round, drawn anew each round; at least one.
        min_clients: Fewest good uploads with which a round still counts.
        include_buffers: Whether floating point buffers (BatchNorm's running statistics) are part of the vector that
            the rule and the attack see; if not they are averaged plainly.
        evaluate_round_start: Log ``…_round_start`` beside every score: that of the model which the round started from.
            Published numbers are often those. It costs one more evaluation at the start of a run, and one before
            each round that follows a round without evaluation.
        seed: Seed of everything random in the rounds.
    """

    def __init__(
        self,
        local: Task,
        aggregator: VectorAggregator | StateRule,
        attack: Attack | None = None,
        byzantine: Sequence[int] = (),
        client: ClientTraining | None = None,
        regime: Literal["federated", "local", "centralised"] = "federated",
        weighting: Literal["equal", "samples", "published"] = "equal",
        participation: float = 1.0,
        min_clients: int = 1,
        include_buffers: bool = True,
        evaluate_round_start: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < participation <= 1:
            raise UsageError(f"model.participation must be above 0 and at most 1, got {participation}")
        if min_clients < 1:
            raise UsageError(f"model.min_clients must be at least 1, got {min_clients}")
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

        self._trained = frozenset(name for name, p in local.named_parameters() if p.requires_grad)
        state = self.communicated()
        stray = sorted(self._trained - state.keys() - self.personal().keys())
        if stray:
            raise UsageError(
                f"model.local: what is trained must travel or be personal, got {stray[0]}, which is neither"
            )
        buffers = frozenset(name for name, _ in local.named_buffers())
        self.layout = VectorLayout(self.exchanged(), last=frozenset() if include_buffers else buffers)
        self.meter = PayloadMeter({"parameters": frozenset(state) - buffers, "buffers": buffers & frozenset(state)})
        self.ledger = Ledger()
        self.client_rounds: dict[int, int] = {}
        self.left_out: Counter[int] = Counter()
        if regime == "local" and evaluate_round_start:
            raise UsageError("model.evaluate_round_start must be false where model.regime is local, got true")
        if regime != "centralised":
            # An optimiser with rate 0 is what makes Lightning count steps; its parameter is never communicated.
            self.clock = nn.Parameter(torch.zeros(()))
            local.requires_grad_(False)
        if regime == "federated":
            if isinstance(aggregator, VectorAggregator):
                aggregator.setup(self.layout.head)
            else:
                aggregator.setup(state)
            self.attack.setup(self.layout.head)

    # ------------------------------------------------------------------ Lightning hooks

    def setup(self, stage: str) -> None:
        """Check the configuration against the data and the trainer."""
        if stage != "fit":
            return
        self._refuse_selection_on_test()
        if self.regime == "centralised":
            if self.trainer.accumulate_grad_batches == 1:
                self.trainer.accumulate_grad_batches = self.client.accumulate
            return
        if str(self.trainer.precision) == "16-mixed":
            raise UsageError(
                "trainer.precision 16-mixed needs a loss scaler per client, which rounds do not keep: "
                "use bf16-mixed or 32-true"
            )
        self._start_engine()
        if self.regime == "local":
            return
        self.check_clients(self.client_ids)
        require_clean_data(self.aggregator, self.trainer.datamodule)  # type: ignore[attr-defined]
        if self.weighting == "published":
            self._scratch["published"] = published_weights(self.trainer.datamodule)  # type: ignore[attr-defined]

    def _start_engine(self) -> None:
        """Refuse what clients elsewhere cannot do, and find them."""
        if self.engine is None:
            return
        if self.regime != "federated":
            raise UsageError(f"engine {self.engine.name} needs model.regime federated, got {self.regime}")
        if self.trainer.world_size > 1:
            raise UsageError(f"engine {self.engine.name} needs one process, got {self.trainer.world_size}")
        if self.client.batched == "always":
            raise UsageError(f"client.batched must be auto or never with engine {self.engine.name}, got always")
        if self.kept() and self.trainer.limit_val_batches and not self.engine.reads_states:
            raise UsageError(
                "clients that keep tensors of their own can be scored only where these are: "
                f"trainer.limit_val_batches must be 0, got {self.trainer.limit_val_batches}"
            )
        self.engine.start(self)

    def _refuse_selection_on_test(self) -> None:
        """The best round is chosen on validation data or not at all."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor.startswith("test/"):
                raise UsageError(
                    f"the monitor of {type(callback).__name__} must be a score on validation data (data.validation "
                    f"holds some out), got {monitor}"
                )

    def configure_optimizers(self) -> Any:
        """The clock of the rounds, or the client's optimiser on the pooled data."""
        if self.regime == "centralised":
            optimizer = self.client.optimizer(p for p in self.local.parameters() if p.requires_grad)
            if self.client.scheduler is None:
                return optimizer
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": self.client.scheduler(optimizer), "interval": "step"},
            }
        return torch.optim.SGD([self.clock], lr=0.0)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the pooled data's gradients as a client would, unless the trainer has a limit of its own."""
        limit = self.client.max_grad_norm if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Find the run folder and drop rows of rounds that will be run again."""
        if self.regime == "centralised":
            schedule: Any = self.lr_schedulers()
            if isinstance(schedule, CountsEpochs):
                batches = int(self.trainer.num_training_batches)
                schedule.set_steps_per_epoch(math.ceil(batches / self.trainer.accumulate_grad_batches))
            return
        folder = run_folder_of(self.trainer)
        self._scratch["folder"] = folder
        self.open_states(folder and folder / "clients")
        if self.kept() and folder is None and self.trainer.world_size > 1:
            raise UsageError(
                "clients that keep tensors of their own need a run folder over several processes, got none"
            )
        self._scratch["rounds"] = RoundLog(folder, first=self.current_epoch)
        template = self.exchanged()
        self._scratch["worker"] = None
        self._scratch["template"] = {name: tensor.clone() for name, tensor in template.items()}
        if self.engine is None:
            self._choose_batching()

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
        if self.regime != "centralised":
            if self.evaluate_round_start:
                self._log_round_start(self.current_epoch)
            self.run_round(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what lies outside the tensors: format, ledger totals, where client states stand."""
        checkpoint["federated"] = {
            "format": FORMAT,
            "ledger": self.ledger.state_dict(),
            "client_rounds": {str(k): r for k, r in self.client_rounds.items()},
            "left_out": {str(k): rounds for k, rounds in self.left_out.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model before anything is loaded."""
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), what="the checkpoint")
        extra = checkpoint.get("federated")
        if extra is not None:
            self.ledger.load_state_dict(extra["ledger"])
            self.client_rounds = {int(k): r for k, r in extra["client_rounds"].items()}
            self.left_out = Counter({int(k): rounds for k, rounds in extra.get("left_out", {}).items()})

    # ------------------------------------------------------------------ a round

    @torch.no_grad()
    def run_round(self, round: int) -> None:
        """One round: local training, attack, server rule, new global model; local training alone where regime is local.

        Raises:
            RunError: Fewer than ``min_clients`` (or than the rule needs) good uploads.
        """
        began = time.perf_counter()
        state = self.exchanged()
        participants = participants_of_round(self.client_ids, self.participation, self.seed, round)
        streams = self.streams(participants)
        origin, rows = self._working_memory(1 if streams else len(participants), state)
        mean = StreamedMean(self.layout.size, self.device) if streams else None
        reports = self._train_clients(round, participants, state, origin, rows, mean)
        trained = time.perf_counter()

        failures = {participants[i]: r["failure"] for i, r in reports.items() if r["failure"]}
        good = [i for i, r in reports.items() if not r["failure"]]
        self._require(len(good), participants, failures)
        if self.regime == "federated":
            self._combine(round, participants, state, origin, rows, reports, failures, good, mean)
        self._log_round(round, participants, reports, failures, began, trained)

    # ------------------------------------------------------------------ records

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the federation."""
        return {
            "regime": self.regime,
            "engine": "in_process" if self.engine is None else self.engine.name,
            "aggregator": type(self.aggregator).__name__,
            "attack": type(self.attack).__name__,
            "byzantine": list(self.byzantine),
            "weighting": self.weighting,
            **({"client_weights": self._scratch["published"]} if "published" in self._scratch else {}),
            "participation": self.participation,
            "batched_clients": self._batched,
            "coordinates": self.layout.size,
            "payload_bytes": 0 if self.regime == "local" else sum(self.meter.measure(self.communicated()).values()),
            "bytes": dict(self.ledger.totals),
            "left_out": {str(k): rounds for k, rounds in sorted(self.left_out.items())},
        }

    def _log_round(
        self,
        round: int,
        participants: list[int],
        reports: dict[int, dict[str, Any]],
        failures: dict[int, str],
        began: float,
        trained: float,
    ) -> None:
        """Ledger, ``rounds.csv``, diagnostics and the row of ``metrics.csv``."""
        folder: Path | None = self._scratch["folder"] if self.trainer.is_global_zero else None
        payload = self.meter.measure(self._scratch["template"]) if self._scratch["template"] else {}
        for position, client in enumerate(participants):
            came = not reports[position]["failure"]
            if came:
                self.client_rounds[client] = round
            for component, size in payload.items():
                self.ledger.add(Entry(round, client, "down", component, size))
                if came:
                    self.ledger.add(Entry(round, client, "up", component, size))
        self.left_out.update(failures.keys())
        self.ledger.close_round(folder and folder / "ledger.csv")
        finished = time.perf_counter()
        if folder is not None:
            self._scratch["rounds"].write(round, participants, failures, finished - began)
        losses = [r["loss"] for i, r in reports.items() if not r["failure"] and participants[i] not in self._hostile]
        values = {
            "train/loss": sum(losses) / len(losses) if losses else float("nan"),
            "round/seconds": finished - began,
            "round/server_seconds": finished - trained,
            "round/failures": float(len(failures)),
            "round/bytes_down": float(self.ledger.last_round["down"]),
            "round/bytes_up": float(self.ledger.last_round["up"]),
        }
        if self.regime == "federated":
            values["round/negative_variances"] = float(self._scratch["negative_variances"])
            values |= log_diagnostics(self.aggregator.diagnostics, self._scratch["combined"], round, folder)
        # Logged with the step, so that they stand in the file before the round's checkpoint does.
        self.log_dict(values, on_step=True, on_epoch=False, batch_size=1, sync_dist=self._many)
