"""SAM with its segmentation task: the loss of windows, and the scores of whole volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from fedsam.inference import Resizing, Scaling, VolumePredictor
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.sam import Sam
from fedsam.volumes import Volume
from fedsam.windows import resize_labels
from shared.errors import UsageError
from shared.metrics.volume import VolumeMetrics
from shared.task import Task

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Inference:
    """How whole volumes are predicted; see :class:`~fedsam.inference.VolumePredictor`.

    Args:
        mode: ``fused``: every slice is the mean over the windows that hold it, as in the reference. ``fast``: one
            prediction per slice, for variants that treat slices apart.
        scaling: What is scaled to [0, 1] as a whole: a ``window`` (as in training), a ``slice`` or the ``volume``.
        resizing: ``torch`` (on the model's device) or ``spline`` (the reference's, slow).
        chunk: About how many slices go through the network at once.
    """

    mode: Literal["fused", "fast"] = "fused"
    scaling: Scaling = "window"
    resizing: Resizing = "torch"
    chunk: int = 20


@dataclass(frozen=True)
class Scores:
    """What is measured on whole volumes; see :class:`~shared.metrics.volume.VolumeMetrics`.

    Args:
        groups: Further masks that unite several classes, name to labels.
        distances: Whether to measure HD95 and surface Dice too, which takes longer.
        tolerance: Of surface Dice, in mm.
    """

    groups: Mapping[str, list[int]] = field(default_factory=dict)
    distances: bool = True
    tolerance: float = 2.0


class VolumeSegmenter(Task):
    """A :class:`~fedsam.sam.Sam` trained on windows of five slices and scored on whole volumes.

    Args:
        network: The model.
        class_names: ``background`` and the C foreground classes of the model.
        loss: Of ``(N, C+1, S, S)`` logits and ``(N, S, S)`` labels.
        low_res_loss: Where the decoder's logits are a quarter of the input's size (``upsampling`` 4), take the loss
            there, with every fourth label, as SAMed does; if not, logits are resized to the labels. The same where
            they are of the input's size.
        inference: How volumes are predicted.
        scores: What is measured.

    Raises:
        UsageError: The names do not fit the model, or ``fast`` inference of a model that mixes slices.
    """

    metrics: VolumeMetrics

    def __init__(
        self,
        network: Sam,
        class_names: Sequence[str],
        loss: CrossEntropyDiceLoss,
        inference: Inference,
        scores: Scores,
        low_res_loss: bool = True,
    ) -> None:
        super().__init__()
        if len(class_names) != network.num_classes + 1:
            raise UsageError(
                f"class_names must be background and {network.num_classes} classes, got {', '.join(class_names)}"
            )
        if inference.mode == "fast" and not network.slice_wise:
            raise UsageError(
                f"model.inference.mode must be fused for a variant that mixes neighbouring slices "
                f"({network.variant}), got fast"
            )
        self.network = network
        self.num_classes = network.num_classes
        self.objective = loss
        self.low_res_loss = low_res_loss
        self.inference = inference
        self.metrics = VolumeMetrics(
            class_names[1:],
            dict(scores.groups),
            scores.distances,
            scores.tolerance,
            sync_on_compute=False,  # every process sees all volumes
        )

    def forward(self, images: Tensor, slices: int = 1) -> Tensor:
        """Logits ``(N, C+1, S, S)`` of images ``(N, 3, S, S)``."""
        return self.network(images, slices)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of windows ``(B, 5, S, S)`` and their labels, all slices of the batch together."""
        images, labels = batch
        slices, side = images.shape[1], images.shape[-1]
        pictures = images.reshape(-1, 1, side, side).expand(-1, 3, -1, -1)
        labels = labels.reshape(-1, side, side)
        logits = (self.network.low_res_logits if self.low_res_loss else self.network)(pictures, slices)
        if logits.shape[-1] != side:
            labels = resize_labels(labels, logits.shape[-1])
        return self.objective(logits, labels)

    @torch.no_grad()
    def segment(self, volume: Volume) -> Tensor:
        """The likeliest class of every voxel, ``(Z, H, W)`` uint8 on the CPU."""
        chosen = self.inference
        predictor = VolumePredictor(
            self.network,
            self.network.image_size,
            chosen.mode,
            scaling=chosen.scaling,
            resizing=chosen.resizing,
            chunk=chosen.chunk,
            device=next(self.network.parameters()).device,
        )
        return predictor(torch.as_tensor(volume.image))

    def update(self, metrics: Metric, batch: Volume) -> None:
        """Segment a volume and add its scores."""
        target = torch.as_tensor(batch.label)
        metrics.update(self.segment(batch), target.cpu(), batch.spacing.tolist(), batch.site, batch.case)

    def predict_step(self, batch: Volume, batch_idx: int) -> tuple[Volume, Tensor]:
        """A volume and its predicted classes."""
        return batch, self.segment(batch)
