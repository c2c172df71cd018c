"""Training of a classifier of planes from a pretrained backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.checkpoints import FORMAT, load_content, require_same_tensors
from shared.classification import Classifier
from shared.errors import UsageError
from shared.federated.seeds import derived_seed
from shared.metrics.classification import bootstrap_intervals
from usssl.backbones import build_backbone
from usssl.classifier import PlaneClassifier, class_weights, trained_parameters
from usssl.initialise import RECORD, initialise, load_backbone, patients_seen, recorded_name
from usssl.patients import check_pretraining

RANDOM = "resnet18"
"""The backbone of a run that starts from random weights and names none."""


class Finetuning(Classifier):
    """A classifier on a backbone, trained whole (``freeze: false``) or the head alone (a linear probe).

    Cross-entropy weighted by class over the whole training set, AdamW at a constant rate. What is tested is the epoch
    with the best balanced accuracy on the validation images, the first of equals
    (:class:`~usssl.best_checkpoint.BestCheckpoint`).

    Args:
        num_classes: Read off the data.
        class_names: Read off the data.
        class_counts: Images of each class in the whole training set, before a share of it is chosen; off the data.
        init: Initial weights of the backbone: a checkpoint of ``usssl pretrain`` or another training, a file of
            ``usssl export`` or any file of a ResNet; ``imagenet``, torchvision's file where torchvision keeps it;
            ``random``; or ``last``, the newest pretraining below ``run.root``. ``null`` is ``last`` where there is
            one, else ``random``. All tensors of the backbone must match.
        backbone: ``null`` takes what the file holds, and ResNet-18 for ``random`` and ``imagenet``.
        freeze: Train the head alone.
        freeze_bn_stats: With ``freeze``, also keep the running statistics; the reference lets them drift.
        weighted: Weigh classes by ``n / n_c``.
        hidden: Widths of hidden layers of the head.
        dropout: Share of the features dropped in training.
        feature_bnorm: BatchNorm without parameters between backbone and head.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.
        seed: Of head and random weights, of dropout; follows ``seed_everything``.

    Raises:
        UsageError: The weights do not fit, or a number is out of range.
    """

    network: PlaneClassifier

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str],
        class_counts: Sequence[int],
        init: str | None = None,
        backbone: str | None = None,
        freeze: bool = False,
        freeze_bn_stats: bool = True,
        weighted: bool = True,
        hidden: list[int] | None = None,
        dropout: float = 0.5,
        feature_bnorm: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 1e-6,
        seed: int = 7,
    ) -> None:
        for option, value in (("lr", lr), ("weight_decay", weight_decay)):
            if value < 0:
                raise UsageError(f"model.{option} must not be negative, got {value}")
        init = init or "random"
        name = backbone or (RANDOM if init in ("random", "imagenet") else load_backbone(Path(init).expanduser())[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            encoder = build_backbone(name)
            initialise(encoder, init, "model.init")
            torch.manual_seed(derived_seed(seed, "head"))
            head: dict[str, Any] = {"hidden": list(hidden or ()), "dropout": dropout, "feature_bnorm": feature_bnorm}
            network = PlaneClassifier(encoder, num_classes, **head, freeze=freeze, freeze_bn_stats=freeze_bn_stats)
        weights = class_weights(class_counts) if weighted else None
        super().__init__(network, num_classes, weights, lr=lr, weight_decay=weight_decay)
        self.class_names = tuple(class_names)
        self.head = head
        self.init, self.freezes, self.seed = init, freeze, seed
        self.pretrained: str = "self" if made_here(init) else encoder.pretrained
        self.weights_sha256 = encoder.weights_sha256
        self.intervals: dict[str, tuple[float, float]] = {}
        known = init in ("random", "imagenet")
        self.patients_seen = {} if known else patients_seen(Path(init).expanduser())

    @property
    def features_are_fixed(self) -> bool:
        """Whether an image has the same features in every epoch, as long as it is not augmented."""
        return self.network.still

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None and self.patients_seen:
            check_pretraining(self.patients_seen, data.data_name, data.patients("test"))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(trained_parameters(self), lr=self.lr, weight_decay=self.weight_decay, fused=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout depends on seed and step alone, so that a resumed run ends with the same bits.
        torch.manual_seed(derived_seed(self.seed, "dropout", self.global_step, self.global_rank))

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        probabilities, truth = self.metrics.stored()
        data = getattr(self.trainer, "datamodule", None)
        patients = data.patients("test") if data is not None else None
        self.intervals = intervals_by_patient(truth, probabilities.argmax(1), self.num_classes, patients)

    # ------------------------------------------------------------------ checkpoints and reports

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint[RECORD] = {
            "format": FORMAT,
            "head": self.head,
            "image_size": data.image_size,
            "resize": data.resize,
            "backbone": self.network.backbone.name,
            "classes": list(self.class_names),
            "init": self.init,
            "pretrained": self.pretrained,
            "weights_sha256": self.weights_sha256,
            "patients": self.patients_seen,
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another training or of other classes.

        Raises:
            UsageError: It is none of ``finetune``, or of other classes or layers.
        """
        record = checkpoint.get(RECORD)
        if not isinstance(record, Mapping) or "classes" not in record:
            raise UsageError("ckpt_path must be a checkpoint of usssl finetune, got another one")
        if tuple(record["classes"]) != self.class_names:
            raise UsageError(
                f"data.source must hold the classes of the checkpoint ({', '.join(record['classes'])}), "
                f"got {', '.join(self.class_names)}"
            )
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), what="--ckpt_path")
        self.init, self.pretrained, self.weights_sha256 = (
            record[name] for name in ("init", "pretrained", "weights_sha256")
        )

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        told: dict[str, Any] = {
            "backbone": self.network.backbone.name,
            "init": self.init,
            "pretrained": self.pretrained,
            "mode": "linear" if self.freezes else "full",
            "parameters": sum(p.numel() for p in self.parameters()),
            "trained_parameters": sum(p.numel() for p in trained_parameters(self)),
        }
        if self.weights_sha256 is not None:
            told["weights_sha256"] = self.weights_sha256
        if self.intervals:
            told["intervals_95"] = {name: list(ends) for name, ends in self.intervals.items()}
        return told


def made_here(init: str) -> bool:
    """Whether ``model.init`` names a file that this package wrote."""
    path = Path(init).expanduser()
    return init not in ("random", "imagenet") and recorded_name(path, load_content(path, "model.init")) is not None


def intervals_by_patient(
    truth: Tensor, predicted: Tensor, num_classes: int, patients: np.ndarray | None
) -> dict[str, tuple[float, float]]:
    """95 % intervals of macro-F1 and accuracy, resampling patients where they are known, else images.

    Args:
        truth: ``(N,)`` classes.
        predicted: ``(N,)`` classes.
        num_classes: Number of classes.
        patients: ``(N,)``; of another length in a run of a few batches, which then resamples images.
    """
    groups = None
    if patients is not None and len(patients) == len(truth):
        groups = torch.from_numpy(np.unique(patients.astype(str), return_inverse=True)[1])
    return bootstrap_intervals(truth, predicted, num_classes, groups=groups)
