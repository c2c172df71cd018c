"""Training of a FineLIP: two learning rates and their course, accumulation, retrieval on the validation pairs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import AdamW, Optimizer

from finelip.checkpoints.read import RECORD, load_clip, read_clip
from finelip.clim import LEAKY_SLOPE, Direction, GlobalTokens, Reduction
from finelip.clip_tiny import read_tiny
from finelip.evaluation import EvaluationSet
from finelip.finelip import FineLIP, Refinement
from finelip.learning_rates import reference_factor, update_factor, updates_of
from finelip.losses import EncodedBatch, GlobalInfoNCE, Loss, TripletHinge
from finelip.positions import Strategy
from finelip.scores import ALPHA
from finelip.tokenizer import cut_to_longest, true_lengths
from finelip.towers import CLIP_TINY
from shared.checkpoints import FORMAT, require_same_tensors
from shared.errors import UsageError
from shared.federated.seeds import derived_seed
from shared.non_finite import NonFiniteGuard, all_finite


class FineLIPModule(LightningModule):
    """FineLIP as it is trained.

    A step of training is a micro-batch: ``image`` ``(B, 3, S, S)``, ``ids`` ``(B, L)``, ``lengths`` ``(B,)``,
    ``pair_id`` ``(B,)`` and, where the loss uses them, ``short_ids`` ``(B, L')``. ``accumulate`` of them make an
    update; negatives come from the micro-batch of all processes, never from the others of the update. Rates and weights
    of losses are functions of epoch and batch alone, so an interrupted run goes on to the same bits.

    Args:
        backbone: See :class:`~finelip.finelip.FineLIP`, also for ``stretch_by`` to ``tile_bytes``.
        init: ``random``; ``tiny``, the shipped weights of the backbone ``clip_tiny``; or a file of weights, see
            :func:`~finelip.checkpoints.read.read_clip`.
        loss: What is trained; ``None``: the paper's triplet loss.
        global_loss_weight: Weight of a contrastive loss of the global vectors beside it; the authors train without.
        lr: Rate of the backbone.
        lr_refinement: Rate of the aggregators.
        weight_decay: Of all parameters.
        warmup_steps: Updates of the warm-up.
        accumulate: Micro-batches of an update. The last of an epoch make one of their own, divided by their number.
        reference_schedule: The authors' two clocks (:func:`~finelip.learning_rates.reference_factor`), and no update
            from the last micro-batches of an epoch where they are too few.
        ramp_loss: Weigh the loss of batch ``i`` of the first epoch by ``i`` over its batches.
        epochs: Length of the course of the rates; ``None``: ``trainer.max_epochs``. A run that will be continued names
            the whole.
        max_non_finite: End the run after so many skipped batches in a row; 1 ends it at the first.
        evaluate_cut: In ``test``, score the captions cut to so many slots too; ``None``: only whole ones.
        himo_captions: In ``test``, measure HiMo on so many of the first captions; 0: not.
        seed: Of the initial weights; follows ``seed_everything``.

    Raises:
        UsageError: An option is out of range, or the weights do not fit.
    """

    def __init__(
        self,
        backbone: str | dict[str, Any] = "ViT-B-16-quickgelu",
        init: str = "random",
        stretch_by: Strategy = "kps",
        keep: int = 20,
        ratio: int = 4,
        refinement: Refinement = "both",
        k_image: int | None = None,
        k_text: int | None = None,
        aggr_ratio: float = 0.2,
        direction: Direction = "both",
        slope: float = LEAKY_SLOPE,
        reduction: Reduction = "mean",
        global_tokens: GlobalTokens = "both",
        alpha: float = ALPHA,
        tile_bytes: int | None = None,
        loss: Loss | None = None,
        global_loss_weight: float = 0.0,
        lr: float = 1e-6,
        lr_refinement: float = 2e-4,
        weight_decay: float = 1e-2,
        warmup_steps: int = 200,
        accumulate: int = 4,
        reference_schedule: bool = False,
        ramp_loss: bool = True,
        epochs: int | None = None,
        max_non_finite: int = 1,
        evaluate_cut: int | None = 77,
        himo_captions: int = 1000,
        seed: int = 71,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        for name, value in (("lr", lr), ("lr_refinement", lr_refinement), ("weight_decay", weight_decay)):
            if value < 0:
                raise UsageError(f"model.{name} must not be negative, got {value}")
        if accumulate < 1:
            raise UsageError(f"model.accumulate must be at least 1, got {accumulate}")
        if warmup_steps < 0:
            raise UsageError(f"model.warmup_steps must not be negative, got {warmup_steps}")
        if epochs is not None and epochs < 1:
            raise UsageError(f"model.epochs must be at least 1, got {epochs}")
        if evaluate_cut is not None and evaluate_cut < 3:
            raise UsageError(f"model.evaluate_cut must be at least 3, got {evaluate_cut}")
        if himo_captions < 0:
            raise UsageError(f"model.himo_captions must not be negative, got {himo_captions}")
        if global_loss_weight < 0:
            raise UsageError(f"model.global_loss_weight must not be negative, got {global_loss_weight}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            self.model = FineLIP(
                backbone,
                *(stretch_by, keep, ratio, refinement, k_image, k_text, aggr_ratio),
                *(direction, slope, reduction, global_tokens, alpha, tile_bytes),
            )
        self.pretrained, self.weights_sha256 = "none", None
        if init != "random":
            if init == "tiny" and self.model.config != CLIP_TINY:
                raise UsageError(f"model.init tiny goes with model.backbone clip_tiny only, got {backbone}")
            weights = read_tiny() if init == "tiny" else read_clip(Path(init).expanduser())
            print(f"initial weights: {init} ({load_clip(self.model, weights)})")
            self.pretrained, self.weights_sha256 = "self" if init == "tiny" else "file", weights.sha256
        self.backbone = backbone if isinstance(backbone, str) else "own config"
        self.loss = TripletHinge() if loss is None else loss
        self.global_loss = GlobalInfoNCE(smoothing=0.0)
        self.global_loss_weight = global_loss_weight
        # What gets no gradient is not trained: several processes would wait for it.
        self.model.logit_scale.requires_grad_(self.loss.uses_scale or global_loss_weight > 0)
        for parameter in self.model.refinement_parameters():
            parameter.requires_grad_(self.loss.uses_sets)
        self.lr, self.lr_refinement, self.weight_decay = lr, lr_refinement, weight_decay
        self.warmup_steps, self.accumulate = warmup_steps, accumulate
        self.reference_schedule, self.ramp_loss = reference_schedule, ramp_loss
        self.epochs = epochs
        self.guard = NonFiniteGuard(max_non_finite)
        self.batches = 0
        self.whole = 0  # epochs of the schedule
        self.evaluate_cut, self.himo_captions = evaluate_cut, himo_captions
        self.evaluated: dict[int, EvaluationSet] = {}

    @property
    def context_length(self) -> int:
        """Slots of a text, which the data are cut to."""
        return self.model.context_length

    @property
    def image_size(self) -> int:
        """Side of an image in pixels, which the data are brought to."""
        return self.model.image_size

    # ------------------------------------------------------------------ before training

    def configure_optimizers(self) -> Optimizer:
        trainer = self.trainer
        self.whole = self.epochs or trainer.max_epochs or -1
        if self.whole < 1:
            raise UsageError(
                f"trainer.max_epochs must be at least 1, for the schedule needs its end, got {trainer.max_epochs}"
            )
        if trainer.max_epochs is not None and trainer.max_epochs > self.whole:
            raise UsageError(
                f"model.epochs must be at least trainer.max_epochs ({trainer.max_epochs}), got {self.whole}"
            )
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches
        if not 1 <= batches < math.inf:
            raise UsageError(f"data.batch_size must leave at least one batch of training pairs, got {batches} batches")
        self.batches = int(batches)
        if self.reference_schedule and self.batches < self.accumulate:
            raise UsageError(
                f"model.accumulate must not exceed the {self.batches} batches of an epoch with reference_schedule, "
                f"got {self.accumulate}"
            )
        groups: list[dict[str, Any]] = [{"params": self.model.backbone_parameters(), "base_lr": self.lr}]
        if refinement := [p for p in self.model.refinement_parameters() if p.requires_grad]:
            groups.append({"params": refinement, "base_lr": self.lr_refinement})
        return AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)

    # ------------------------------------------------------------------ training

    def rate_factor(self, epoch: int, update: int) -> float:
        """Share of the base rates at an update of an epoch, both counted from 0."""
        per_epoch = updates_of(self.batches, self.accumulate, self.reference_schedule)
        step = epoch * per_epoch + update
        if self.reference_schedule:
            return reference_factor(step, self.accumulate, self.batches, self.whole, self.warmup_steps)
        return update_factor(step, self.whole * per_epoch, self.warmup_steps)

    def loss_weight(self, epoch: int, batch_idx: int) -> float:
        """Weight of a micro-batch's loss: a ramp from 0 in the first epoch, then 1."""
        return batch_idx / self.batches if self.ramp_loss and epoch == 0 else 1.0

    def encode(self, batch: Mapping[str, Tensor]) -> EncodedBatch:
        """All tokens of a batch."""
        short, short_lengths = None, None
        if self.loss.uses_short and "short_ids" in batch:
            short_lengths = true_lengths(batch["short_ids"])
            short = self.model.text_tokens(cut_to_longest(batch["short_ids"], short_lengths))
        return EncodedBatch(
            self.model.image_tokens(batch["image"]),
            self.model.text_tokens(cut_to_longest(batch["ids"], batch["lengths"])),
            batch["lengths"],
            batch["pair_id"],
            short,
            short_lengths,
        )

    def total_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch of all processes."""
        encoded = self.encode(batch)
        loss: Tensor = self.loss(self.model, encoded)
        if self.global_loss_weight:
            loss = loss + self.global_loss_weight * self.global_loss(self.model, encoded)
        return loss

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        update, place = divmod(batch_idx, self.accumulate)
        size = min(self.accumulate, self.batches - update * self.accumulate)
        if place == 0:
            optimizer.zero_grad()
        if self.reference_schedule and size < self.accumulate:
            return  # thrown away, as the authors' code does with the gradients of these
        loss = self.total_loss(batch)
        if self._on_all(bool(loss.detach().isfinite())):
            self.manual_backward(loss * (self.loss_weight(self.current_epoch, batch_idx) / size))
            self.guard.passed()
            self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch["ids"]))
        else:
            self._skip("loss", batch_idx, optimizer)
        if place + 1 < size:
            return
        factor = self.rate_factor(self.current_epoch, update)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        if getattr(self.trainer.precision_plugin, "scaler", None) is None and not self._on_all(
            all_finite(p.grad for p in self.model.parameters() if p.grad is not None)
        ):
            self._skip("gradient", batch_idx, optimizer)
        else:
            optimizer.step()

    def _on_all(self, decision: bool) -> bool:
        return self.trainer.strategy.reduce_boolean_decision(decision, all=True)

    def _skip(self, what: str, batch_idx: int, optimizer: LightningOptimizer) -> None:
        rate = optimizer.param_groups[0]["lr"]
        self.guard.skip(what, self.current_epoch, batch_idx, rate, str(self.trainer.precision))

    def on_train_epoch_end(self) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self.log("lr", optimizer.param_groups[0]["lr"])
        self.log("lr_refinement", optimizer.param_groups[-1]["lr"])
        self.log("train/skipped", float(self.guard.skipped))

    # ------------------------------------------------------------------ validation and test

    def on_validation_epoch_start(self) -> None:
        self.evaluated = {}

    def on_test_epoch_start(self) -> None:
        self.evaluated = {}

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self.evaluated.setdefault(0, EvaluationSet()).add(self.model, batch)

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        fresh = EvaluationSet(self.evaluate_cut, self.himo_captions)
        self.evaluated.setdefault(dataloader_idx, fresh).add(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", [""])

    def on_test_epoch_end(self) -> None:
        further = getattr(self.trainer.datamodule, "further_tests", ())  # type: ignore[attr-defined]
        self._log_scores("test", ["", *(f"{source.name}/" for source in further)])

    def _log_scores(self, split: str, names: Sequence[str]) -> None:
        """Recall and ranks of each evaluation set, by global and by fused score; see :class:`EvaluationSet`."""
        for number, pairs in self.evaluated.items():
            found = pairs.scores(self.model)
            self.log_dict({f"{split}/{names[number]}{name}": value for name, value in found.items()})
        self.evaluated = {}

    def forward(self, images: Tensor, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(N, M)`` fused scores."""
        scores: Tensor = self.model(images, ids, lengths)
        return scores

    # ------------------------------------------------------------------ checkpoints and reports

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = {
            "format": FORMAT,
            "backbone": self.model.config,
            "options": self.model.options,
            "guard": self.guard.state(),
            "pretrained": self.pretrained,
            "weights_sha256": self.weights_sha256,
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another training.

        Raises:
            UsageError: It is none of finelip, or of another backbone or refinement.
        """
        record = checkpoint.get(RECORD)
        if not isinstance(record, Mapping) or "guard" not in record:
            where = f" ({self._trainer.ckpt_path})" if self._trainer else ""
            raise UsageError(f"--ckpt_path must be a checkpoint of finelip fit, got another one{where}")
        if record["backbone"] != self.model.config:
            raise UsageError("--ckpt_path must be of the same backbone, got one of another")
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), what="--ckpt_path")
        self.guard.restore(record["guard"])
        self.pretrained, self.weights_sha256 = record["pretrained"], record["weights_sha256"]

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        told: dict[str, Any] = {
            "backbone": self.backbone,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "context_length": self.model.context_length,
            "refinement": self.model.refinement,
            "loss": type(self.loss).__name__,
            "pretrained": self.pretrained,
            "skipped_batches": self.guard.skipped,
        }
        return told if self.weights_sha256 is None else told | {"weights_sha256": self.weights_sha256}
