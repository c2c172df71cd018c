"""Self-supervised training of a backbone."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from shared.checkpoints import FORMAT, require_same_tensors
from shared.errors import UsageError
from shared.federated.seeds import derived_seed
from shared.non_finite import NonFiniteGuard, all_finite
from usssl.backbones import Backbone, build_backbone
from usssl.collapse import collapse_monitors
from usssl.initialise import RECORD, initialise
from usssl.learning_rates import Schedule
from usssl.methods import Method
from usssl.online_probe import OnlineProbe
from usssl.patients import pseudonym
from usssl.progress import Progress
from usssl.synchronised_batchnorm import synchronise_batchnorm


class Pretraining(LightningModule):
    """A method trains a backbone on images without labels.

    Learning rate and momentum are functions of epoch and batch alone, and everything else that training depends on is
    in the checkpoint (momentum copies, queue and its pointer, running statistics, counters of skipped batches), so a
    run that was interrupted goes on to the same bits. A batch whose loss or gradient is not finite is skipped on all
    processes; the schedules go on. Losses are taken in float32 whatever ``trainer.precision``.

    Args:
        method: One of :mod:`usssl.methods`; it is built around the backbone.
        backbone: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``, or ``timm:`` and the name of
            a model in timm.
        backbone_init: ``random``; ``imagenet``, torchvision's file where torchvision keeps it; or a file of weights.
        optimizer: Optimiser of the trained parameters; ``None``: the reference's for the method.
        lr_schedule: Course of the learning rate; ``None``: the reference's for the method, with the cosine by steps
            where the reference counts batches for epochs.
        lr_batch: Batch for which the learning rates are given; they are scaled by the true batch of all processes over
            this one. 0 leaves them as they are; ``None``: the reference's for the method.
        epochs: Length of the schedules; ``None``: ``trainer.max_epochs``. A run that will be continued names the whole.
        max_non_finite: End the run after so many skipped batches in a row.
        sync_batchnorm: Under several processes, take BatchNorm's statistics over all of them.
        probe: Watch how well classes can be told from the features.
        seed: Of the initial weights and of what a method draws; follows ``seed_everything``.

    Raises:
        UsageError: The backbone is unknown, its weights do not fit, or a number is out of range.
    """

    def __init__(
        self,
        method: Callable[[Backbone], Method],
        backbone: str = "resnet18",
        backbone_init: str = "random",
        optimizer: OptimizerCallable | None = None,
        lr_schedule: Schedule | None = None,
        lr_batch: int | None = None,
        epochs: int | None = None,
        max_non_finite: int = 10,
        sync_batchnorm: bool = True,
        probe: OnlineProbe | None = None,
        seed: int = 73,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            encoder = build_backbone(backbone)
            initialise(encoder, backbone_init, "model.backbone_init")
            self.method = method(encoder)
        recipe = self.method.recipe()
        self.optimizer = recipe.optimizer if optimizer is None else optimizer
        self.lr_schedule = recipe.schedule if lr_schedule is None else lr_schedule
        self.lr_batch = recipe.lr_batch if lr_batch is None else lr_batch
        if self.lr_batch < 0:
            raise UsageError(f"model.lr_batch must not be negative, got {lr_batch}")
        if epochs is not None and epochs < 1:
            raise UsageError(f"model.epochs must be at least 1, got {epochs}")
        self.epochs = epochs
        self.sync_batchnorm = sync_batchnorm
        self.probe = probe
        self.seed = seed
        self.guard = NonFiniteGuard(max_non_finite)
        self.steps_per_epoch = 0
        self.whole = 0  # epochs of the schedules

    @property
    def backbone(self) -> Backbone:
        """The encoder."""
        return self.method.backbone

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F)`` features of ``(B, 3, S, S)`` images."""
        return self.backbone.features(x)

    # ------------------------------------------------------------------ before training

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.sync_batchnorm and self.trainer.world_size > 1:
            synchronise_batchnorm(self.method, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Optimizer:
        trainer = self.trainer
        self.whole = self.epochs or trainer.max_epochs or -1
        if self.whole < 1:
            raise UsageError(
                f"trainer.max_epochs must be at least 1, for the schedules need its end, got {trainer.max_epochs}"
            )
        if trainer.max_epochs is not None and trainer.max_epochs > self.whole:
            raise UsageError(
                f"model.epochs must be at least trainer.max_epochs ({trainer.max_epochs}), got {self.whole}"
            )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # a few batches of one epoch, whatever its length
            self.lr_schedule.check(self.whole)
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches
        if not 1 <= batches < math.inf:
            raise UsageError(
                f"data.batch_size must leave at least one whole batch of the training frames, got {batches} batches"
            )
        self.steps_per_epoch = int(batches)
        optimizer = self.optimizer([p for p in self.method.parameters() if p.requires_grad])
        scale = self.batch_size / self.lr_batch if self.lr_batch else 1.0
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"] * scale
        return optimizer

    @property
    def batch_size(self) -> int:
        """Images of a whole batch of all processes."""
        loader: Any = self.trainer.train_dataloader
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        if size is None:
            raise UsageError("model.lr_batch must be 0 where the data do not say their batch size")
        return size * self.trainer.world_size

    # ------------------------------------------------------------------ training

    def progress(self, batch_idx: int) -> Progress:
        """Where training is at a batch of the current epoch."""
        step = self.current_epoch * self.steps_per_epoch + batch_idx
        return Progress(self.current_epoch, self.whole, step, self.whole * self.steps_per_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        progress = self.progress(batch_idx)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        factor = self.lr_schedule.factor(progress.step, self.steps_per_epoch, self.whole)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        # What a method draws (noise, dropout) depends on seed, step and rank alone; loaders draw in between.
        torch.manual_seed(derived_seed(self.seed, "method", progress.step, self.global_rank))
        self.method.before_forward(progress)
        loss = self.method.loss(batch)
        if not self._on_all(bool(loss.detach().isfinite())):
            self._skip("loss", batch_idx, optimizer)
            return
        optimizer.zero_grad()
        self.manual_backward(loss)
        # A scaler of float16 looks at the gradients itself, and skips the steps with which it finds its scale.
        if getattr(self.trainer.precision_plugin, "scaler", None) is None and not self._on_all(
            all_finite(p.grad for p in self.method.parameters() if p.grad is not None)
        ):
            optimizer.zero_grad()
            self._skip("gradient", batch_idx, optimizer)
            return
        optimizer.step()
        self.method.after_step()
        self.guard.passed()
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=images_in(batch), sync_dist=True)

    def _on_all(self, decision: bool) -> bool:
        return self.trainer.strategy.reduce_boolean_decision(decision, all=True)

    def _skip(self, what: str, batch_idx: int, optimizer: LightningOptimizer) -> None:
        lr = optimizer.param_groups[0]["lr"]
        self.guard.skip(what, self.current_epoch, batch_idx, lr, str(self.trainer.precision))

    def on_train_epoch_end(self) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self.log("lr", optimizer.param_groups[0]["lr"], sync_dist=True)
        self.log("train/skipped", float(self.guard.skipped), sync_dist=True)
        if self.method.embeddings is not None and self.method.embeddings.isfinite().all():
            self.log_dict(collapse_monitors(self.method.embeddings), sync_dist=True)
        if self.probe is not None and self.probe.due(self.current_epoch):
            self.log_dict(self.probe.scores(self.backbone, self.device), sync_dist=True, prog_bar=True)

    # ------------------------------------------------------------------ validation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loss of a validation batch; momentum copies and queue stay as they are."""
        self.log("val/loss", self.method.loss(batch), batch_size=images_in(batch), sync_dist=True)

    # ------------------------------------------------------------------ checkpoints and reports

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seen: dict[str, list[str]] = getattr(self.trainer.datamodule, "pretraining_patients", {})  # type: ignore[attr-defined]
        checkpoint[RECORD] = {
            "format": FORMAT,
            "backbone": self.backbone.name,
            "method": type(self.method).__name__,
            "guard": self.guard.state(),
            "patients": {name: sorted(map(pseudonym, people)) for name, people in seen.items()},
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another training.

        Raises:
            UsageError: It is none of ``pretrain``, or of another backbone or method.
        """
        record = checkpoint.get(RECORD)
        if not isinstance(record, Mapping) or "guard" not in record:
            raise UsageError("ckpt_path must be a checkpoint of usssl pretrain, got another one")
        own = (self.backbone.name, type(self.method).__name__)
        if (record["backbone"], record["method"]) != own:
            raise UsageError(
                f"ckpt_path must be of {own[1]} on {own[0]}, got {record['method']} on {record['backbone']}"
            )
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), what="--ckpt_path")
        self.guard.restore(record["guard"])

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        told: dict[str, Any] = {
            "method": type(self.method).__name__,
            "backbone": self.backbone.name,
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "trained_parameters": sum(p.numel() for p in self.method.parameters() if p.requires_grad),
            "pretrained": self.backbone.pretrained,
            "skipped_batches": self.guard.skipped,
        }
        sha = self.backbone.weights_sha256
        return told if sha is None else told | {"weights_sha256": sha}


def images_in(batch: Any) -> int:
    """Number of images (not views) in a batch.

    Example:
        >>> images_in((torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)))
        4
    """
    return len((batch["views"] if isinstance(batch, Mapping) else batch)[0])
