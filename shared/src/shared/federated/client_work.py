"""The clients' part of a round: who trains whom, each client's own work, and what is remembered of it."""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shared.errors import RunError, UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.batched import Stream, clients_at_once, obstacle, pays, train_together, trial_fault
from shared.federated.client import ClientTraining, LocalResult, train_locally
from shared.federated.client_states import ClientStates, States, optimizer_tensors, restore_optimizer, scheduler_after
from shared.federated.engine import Engine
from shared.federated.evaluation import EvaluatedModule
from shared.federated.exchange import owner_of, share_reports, share_rows
from shared.federated.progress import RoundBar
from shared.federated.seeds import OwnRandomness, derived_generator, derived_seed, global_seed
from shared.federated.streaming import StreamedMean
from shared.federated.uploads import are_finite, is_finite, upload_fault
from shared.federated.vectors import VectorLayout
from shared.runs import folder_of_checkpoint
from shared.task import Task

PERSONAL, STEPS = "personal/", "schedule/steps"
"""Names in a client's state beside the optimiser's."""
Outcome = tuple[dict[str, Tensor], LocalResult] | Exception
"""A client's upload and report, or what went wrong."""


NO_SAMPLES, NOT_FINITE = "no training samples", "NaN or infinite values"


class Failed(Exception):
    """What went wrong with a client, in words that stand in the record as they are."""


def told(error: Exception) -> str:
    """How an error is recorded.

    Example:
        >>> told(ValueError("no such slice")), told(Failed("no answer within 60 s"))
        ('ValueError: no such slice', 'no answer within 60 s')
    """
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"


class ClientWork(EvaluatedModule):
    """Trains the clients of a round, each from the global model on its own data: in turn, or together where it pays.

    Attributes:
        aggregator: The server's rule.
        attack: What hostile clients do.
        byzantine: Ids of the hostile clients.
        data_client: Client to the one whose data it has, where the data at hand count clients in their own way.
        client: The local training recipe.
        client_rounds: Client to the last round after which its state was stored.
        engine: Where clients are trained; ``None`` is this process.
        layout: Where each communicated tensor lies in a vector.
        seed: Seed of everything random in the rounds.
    """

    aggregator: VectorAggregator | StateRule
    attack: Attack
    byzantine: tuple[int, ...]
    client: ClientTraining
    client_rounds: dict[int, int]
    data_client: Mapping[int, int] = {}
    engine: Engine | None = None
    layout: VectorLayout
    regime: Literal["federated", "local", "centralised"]
    seed: int
    _batched = False
    _trained: frozenset[str]

    def communicated(self) -> dict[str, Tensor]:
        """The named tensors that clients and server exchange: the whole state of ``local``.

        A method that sends less names less; what is neither sent nor :meth:`personal` is the same for all and never
        changes.
        """
        return dict(self.local.state_dict())

    def exchanged(self) -> dict[str, Tensor]:
        """What travels in this regime: nothing where every client trains alone."""
        return {} if self.regime == "local" else self.communicated()

    def kept(self) -> dict[str, Tensor]:
        """What stays with each client in this regime: the :meth:`personal` tensors, and those that do not travel."""
        return self.personal() | (self.communicated() if self.regime == "local" else {})

    @property
    def client_ids(self) -> list[int]:
        """All clients, ascending: those of the engine, or of the data."""
        if self.engine is not None:
            return self.engine.client_ids
        return list(self.trainer.datamodule.client_ids)  # type: ignore[attr-defined]

    def _train_clients(
        self,
        round: int,
        participants: list[int],
        state: dict[str, Tensor],
        origin: Tensor,
        rows: Tensor,
        mean: StreamedMean | None = None,
    ) -> dict[int, dict[str, Any]]:
        """Fill ``rows`` with each client's upload; reports by position in ``participants``.

        A rule on vectors sees origin minus the client's result, one on named tensors the result, bit for bit. Where
        uploads are only added up, to ``mean``, there is a single row, which each of them has in turn.
        """
        many, rank = self.trainer.world_size, self.trainer.global_rank
        places = {p: client for p, client in enumerate(participants) if owner_of(p, many) == rank}
        reports: dict[int, dict[str, Any]] = {}
        for position, outcome in self._outcomes(round, places, len(participants), state):
            row = rows[position] if mean is None else rows[0]
            report: dict[str, Any] = {"failure": "", "samples": 0, "loss": float("nan")}
            reports[position] = report
            if isinstance(outcome, Exception):
                report["failure"] = told(outcome)
                continue
            upload, result = outcome
            report |= {"samples": result.samples, "loss": result.loss}
            fault = NO_SAMPLES if result.samples == 0 else upload_fault(upload, state)
            if fault is None:
                if isinstance(self.aggregator, StateRule):
                    self.layout.flatten(upload, out=row)
                else:
                    self.layout.difference(origin, upload, out=row)
                fault = None if is_finite(row) else NOT_FINITE
            if fault is None:
                memory = self._scratch.get("memory") if self.engine is None else None
                if memory and not are_finite(memory.values()):
                    fault = NOT_FINITE
                elif memory:  # only now: a client that failed goes on from its last good state
                    self._scratch["states"].save(places[position], round, memory)
            if fault is None:
                if mean is not None:
                    mean.add(row, self.weight_of(places[position], result.samples))
                report["counters"] = {
                    name: tensor.tolist() for name, tensor in upload.items() if not tensor.is_floating_point()
                }
            report["failure"] = fault or ""
        reports = dict(sorted(reports.items()))
        if many > 1:
            if rows.numel():
                share_rows(rows)
            reports = share_reports(reports, origin.device)
        return reports

    def _outcomes(
        self, round: int, places: dict[int, int], participants: int, state: dict[str, Tensor]
    ) -> Iterator[tuple[int, Outcome]]:
        """What the clients send back, by position: from the engine, or trained here."""
        if self.engine is not None:
            return self.engine.outcomes(round, places, state, self.client_rounds)
        here = self._together if self._batched and len(places) > 1 else self._one_by_one
        return here(round, places, participants, state)

    def weight_of(self, client: int, samples: int) -> float:
        """What a client with so many samples counts, before the weights of a round are made to sum to one."""
        raise NotImplementedError

    def _one_by_one(
        self, round: int, places: dict[int, int], participants: int, state: dict[str, Tensor]
    ) -> Iterator[tuple[int, Outcome]]:
        """Train clients (by position in the round's list) in turn; whatever a client's code raises is its outcome."""
        for position, client in places.items():
            outcome: Outcome
            try:
                with torch.enable_grad():
                    outcome = self.train_client(round, client, state, (position + 1, participants))
            except (UsageError, RunError):
                raise
            except Exception as error:
                outcome = error
            yield position, outcome

    def _together(
        self, round: int, places: dict[int, int], participants: int, state: dict[str, Tensor]
    ) -> Iterator[tuple[int, Outcome]]:
        """Train clients (by position in the round's list) as few batched computations; see :mod:`.batched`."""
        worker = self._worker()
        self._load(worker, state, {})
        worker.train()
        start = {name: parameter for name, parameter in worker.named_parameters() if parameter.requires_grad}
        streams: dict[int, Stream] = {}
        for position, client in places.items():
            try:
                streams[position] = self._stream(round, client)
            except (UsageError, RunError):
                raise
            except Exception as error:
                yield position, error
        # Clients with about as many steps side by side: those who are done early then leave little to the others.
        order = sorted(streams, key=lambda position: -streams[position].steps)
        at_once = clients_at_once(worker)
        for chunk in (order[first : first + at_once] for first in range(0, len(order), at_once)):
            steps = streams[chunk[0]].steps
            with torch.enable_grad():
                outcomes = train_together(
                    worker,
                    start,
                    [streams[position] for position in chunk],
                    self.client.optimizer,
                    on_step=lambda step, place=(chunk[-1] + 1, participants), steps=steps: self._show(  # type: ignore[misc]
                        place, step, steps
                    ),
                )
            for position, outcome in zip(chunk, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    yield position, outcome
                else:
                    trained, result = outcome
                    yield position, ({name: trained.get(name, tensor) for name, tensor in state.items()}, result)

    def _stream(self, round: int, client: int) -> Stream:
        """The batches of one client's round as :func:`train_locally` would see them, one at a time on demand."""
        loader = self._loader(round, client)
        own_randomness = OwnRandomness(derived_seed(self.seed, "client", round, client), self.device)

        def batches() -> Iterator[tuple[int, Any]]:
            for epoch in range(self.client.epochs):
                passing = iter(loader)
                while True:
                    with own_randomness():
                        batch = next(passing, None)
                        if batch is None:
                            break
                        self.local.check(batch)
                        batch = self.transfer_batch_to_own_device(batch)
                        if client in self.byzantine:
                            batch = self._poison(batch)
                    yield epoch, batch

        return Stream(batches(), len(loader) * self.client.epochs)

    def _choose_batching(self) -> str | None:
        """Decide once per run whether clients are batched; why not, if they are not.

        Raises:
            UsageError: ``client.batched`` is ``always`` and something stands against it.
        """
        self._batched = False
        if self.client.batched == "never":
            return "client.batched is never"
        worker = self._worker()
        reason: str | None = None
        if type(self).train_client is not ClientWork.train_client:
            reason = f"{type(self).__name__} trains its clients in a way of its own"
        if self.kept():
            reason = reason or "each client has tensors of its own"
        reason = reason or obstacle(worker, self.client, str(self.trainer.precision))
        if reason is None and self.client.batched == "auto" and not pays(worker, self.device):
            return "it does not pay for this model on this device"
        reason = reason or self._trial(worker)
        if reason is not None and self.client.batched == "always":
            raise UsageError(f"client.batched can be always only where clients can be trained together, but {reason}")
        self._batched = reason is None
        return reason

    def _trial(self, worker: Task) -> str | None:
        """Try the first batch of the first client that has one."""
        for client in self.client_ids:
            try:
                loader = self._loader(0, client)
                workers, batch = loader.num_workers, next(iter(loader), None)
            except Exception:  # such a client is left out of its round and told there
                continue
            if workers:
                return "each client's loader would have worker processes of its own (data.num_workers is not 0)"
            if batch is not None:
                return trial_fault(worker.train(), self.transfer_batch_to_own_device(batch))
        return None

    def _loader(self, round: int, client: int) -> Any:
        generator = derived_generator(self.seed, "shuffle", round, client)
        owner = self.data_client.get(client, client)
        return self.trainer.datamodule.client_loader(owner, generator)  # type: ignore[attr-defined]

    def _show(self, place: tuple[int, int], step: int, steps: int) -> None:
        bar = self.trainer.progress_bar_callback
        if isinstance(bar, RoundBar):
            bar.client_step(*place, step, steps)

    def train_client(
        self, round: int, client: int, state: Mapping[str, Tensor], place: tuple[int, int] = (1, 1)
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """One client's work from the global ``state``: the tensors that it uploads and what it reports."""
        worker = self._worker()
        own = self._worker_state()
        memory = self._recall(client)
        self._load(worker, state, memory)
        trained: dict[str, nn.Parameter] = self._scratch["worker_trained"]
        optimizer = self.client.optimizer(iter(trained.values()))
        loader = self._loader(round, client)
        steps = len(loader) * self.client.epochs
        steps_before, per_epoch = int(memory.get(STEPS, 0)), self.client.steps_per_epoch(len(loader))
        scheduler = self.client.scheduler and scheduler_after(self.client.scheduler, optimizer, steps_before, per_epoch)
        if self.client.keep_optimizer and memory:
            restore_optimizer(optimizer, memory)
        poison = self._poison if client in self.byzantine and self.regime == "federated" else None
        with global_seed(derived_seed(self.seed, "client", round, client), self.device):
            result = train_locally(
                worker,
                loader,
                self.client,
                optimizer,
                scheduler=scheduler,
                anchored=state.keys(),
                poison=poison,
                to_device=self.transfer_batch_to_own_device,
                forward_context=self.trainer.precision_plugin.forward_context,
                on_step=lambda step: self._show(place, step, steps),
            )
        memory = {PERSONAL + name: own[name] for name in self.kept()}
        if self.client.keep_optimizer:
            rebased = self.rebased()
            unfit = {str(index) for index, name in enumerate(trained) if name in rebased}
            moments = optimizer_tensors(optimizer)
            memory |= {key: tensor for key, tensor in moments.items() if key.split(".")[0] not in unfit}
        if scheduler is not None:
            memory[STEPS] = torch.tensor(steps_before + result.steps)
        self._scratch["memory"] = memory
        return {name: own[name] for name in state}, result

    def train_and_keep(
        self, round: int, client: int, state: Mapping[str, Tensor], states: States
    ) -> tuple[dict[str, Tensor], LocalResult]:
        """:meth:`train_client` where it is the whole work of a process: what the client keeps goes to ``states``.

        Raises:
            Failed: There are no samples, or the result is not finite; the client's state stays as it was.
        """
        self._scratch["states"] = states
        with torch.enable_grad():
            upload, result = self.train_client(round, client, state)
        memory = self._scratch["memory"]
        if result.samples == 0:
            raise Failed(NO_SAMPLES)
        if not are_finite([*upload.values(), *memory.values()]):
            raise Failed(NOT_FINITE)
        if memory:
            states.save(client, round, memory)
        return upload, result

    # ------------------------------------------------------------------ what stays with a client

    def personal(self) -> dict[str, Tensor]:
        """The named tensors of ``local`` that each client keeps for itself, with the values that all start from.

        None by default. They are trained like all others, stored with the client's state and never averaged; the
        server's copy keeps its first values.
        """
        return {}

    def drawn(self, client: int) -> dict[str, Tensor]:
        """Those of the :meth:`personal` tensors that ``client`` draws for itself before its first round; none."""
        return {}

    def rebased(self) -> Collection[str]:
        """Trained tensors to which the server gives a new basis, so that kept moments do not fit them; none."""
        return ()

    def owners(self) -> list[int]:
        """All clients where each trains alone."""
        return self.client_ids if self.regime == "local" else []

    def model_of(self, client: int) -> Task:
        """The shared model, or where clients keep tensors of their own a copy with those of ``client``."""
        if not self.kept() or self.regime == "centralised":
            return self.local
        if client not in self._recalled:
            if self.client_rounds and "states" not in self._scratch:
                self.open_states(self._states_folder())
            self._recalled[client] = self._recall(client)
        worker = self._worker()
        self._load(worker, self.exchanged(), self._recalled[client])
        worker.eval()
        return worker

    def open_states(self, folder: Path | None) -> None:
        """Read and write what clients keep below ``folder``, or in memory; a trainer does it by itself."""
        self._scratch["states"] = ClientStates(folder)

    def _states_folder(self) -> Path:
        """Where the checkpoint that is evaluated left the clients' states."""
        checkpoint = self.trainer.ckpt_path
        folder = folder_of_checkpoint(Path(checkpoint)) if checkpoint else None
        if folder is None:
            raise UsageError("ckpt_path must lie in its run folder, beside the clients' own tensors")
        return folder / "clients"

    def _recall(self, client: int) -> dict[str, Tensor]:
        """What a client stored after its last good round; before that, what it draws."""
        keeps = self.client.keep_optimizer or self.client.scheduler is not None or bool(self.kept())
        if not keeps or client not in self.client_rounds:
            return {PERSONAL + name: tensor for name, tensor in self.drawn(client).items()}
        states: States = self._scratch["states"]
        return states.load(client, self.client_rounds[client])

    def _load(self, worker: Task, state: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> None:
        """Bring the working copy to the global ``state`` and a client's own tensors."""
        own = self._worker_state()
        for name, tensor in state.items():
            own[name].copy_(tensor)
        for name, tensor in self.kept().items():
            own[name].copy_(memory.get(PERSONAL + name, tensor))
        for name, (buffer, global_buffer) in self._scratch["worker_buffers"].items():
            # What a forward pass changed is forgotten unless it travels or is kept.
            if name not in state and PERSONAL + name not in memory:
                buffer.copy_(global_buffer)

    def _worker(self) -> Task:
        """The working copy that clients train one after the other; it shares with ``local`` what nobody changes."""
        if self._scratch.get("worker") is None:
            changing = self._trained | self.exchanged().keys() | self.kept().keys()
            fixed = {id(p): p for name, p in self.local.named_parameters() if name not in changing}
            worker = deepcopy(self.local, fixed)
            for name, parameter in worker.named_parameters():
                if name in self._trained:
                    parameter.requires_grad_(True)
            # Listed once: to walk through hundreds of modules takes milliseconds, and training changes them in place.
            self._scratch["worker"], self._scratch["worker_state"] = worker, worker.state_dict()
            self._scratch["worker_trained"] = {n: p for n, p in worker.named_parameters() if p.requires_grad}
            global_buffers = dict(self.local.named_buffers())
            self._scratch["worker_buffers"] = {n: (b, global_buffers[n]) for n, b in worker.named_buffers()}
        return self._scratch["worker"]

    def _worker_state(self) -> dict[str, Tensor]:
        """The working copy's tensors."""
        self._worker()
        return self._scratch["worker_state"]

    def _poison(self, batch: Any) -> Any:
        return self.attack.poison(batch, getattr(self.local, "num_classes", None))
