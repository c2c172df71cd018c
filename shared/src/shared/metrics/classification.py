"""Scores of a classifier on a whole evaluation set, from its confusion matrix and its probabilities."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix, multilabel_auroc
from torchmetrics.utilities import dim_zero_cat

from shared.errors import UsageError


def check_labels(target: Tensor, num_classes: int) -> None:
    """Refuse labels that are not integers in ``0 .. num_classes - 1``.

    Raises:
        UsageError: Names the first offending label and the range, or the type if the labels are not integers.
    """
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise UsageError(f"labels must be integers in 0..{num_classes - 1}, got a tensor of {target.dtype}")
    outside = (target < 0) | (target >= num_classes)
    if outside.any():
        label = int(target[outside][0])
        raise UsageError(f"labels must lie in 0..{num_classes - 1} (num_classes={num_classes}), got label {label}")


def macro_f1(confusion: Tensor) -> Tensor:
    r"""Unweighted mean of the per-class F1 over the classes present in targets or predictions.

    .. math:: \frac{1}{|P|} \sum_{c \in P} \frac{2\,M_{cc}}{\sum_j M_{cj} + \sum_i M_{ic}}, \qquad
        P = \{c : \textstyle\sum_j M_{cj} + \sum_i M_{ic} > 0\}

    A class that is present but never hit counts 0. Equals ``sklearn.metrics.f1_score(average="macro",
    zero_division=0)``.

    Args:
        confusion: ``(..., C, C)`` counts, rows are the true classes.

    Returns:
        ``(...)`` float64 in [0, 1].
    """
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    seen = (confusion.sum(-1) + confusion.sum(-2)).double()
    return (2 * hits / seen.clamp(min=1)).sum(-1) / (seen > 0).sum(-1)


def balanced_accuracy(confusion: Tensor) -> Tensor:
    r"""Mean recall over the classes present in the targets, :math:`\mathrm{mean}_c\, M_{cc} / \sum_j M_{cj}`.

    Args:
        confusion: ``(..., C, C)`` counts, rows are the true classes.

    Returns:
        ``(...)`` float64 in [0, 1].
    """
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    true = confusion.sum(-1).double()
    return (hits / true.clamp(min=1)).sum(-1) / (true > 0).sum(-1)


def accuracy(confusion: Tensor) -> Tensor:
    """Share of the items on the diagonal of ``(..., C, C)`` confusion counts: ``(...)`` float64 in [0, 1]."""
    return confusion.diagonal(dim1=-2, dim2=-1).sum(-1).double() / confusion.sum((-2, -1))


def auroc(probabilities: Tensor, target: Tensor) -> Tensor:
    """Macro one-vs-rest area under the ROC curve; a tie between a positive and a negative counts one half.

    A class without a positive or without a negative has no ROC curve and is left out of the mean.

    Args:
        probabilities: ``(N, C)`` in [0, 1].
        target: ``(N,)`` integer labels.

    Returns:
        Scalar in [0, 1]; NaN if no class has a curve (all items share one label) or a probability is NaN.
    """
    positive = F.one_hot(target.long(), probabilities.shape[1])
    drawn = positive.any(0) & ~positive.all(0)
    if not drawn.any() or probabilities.isnan().any():
        return probabilities.new_full((), torch.nan)
    # A softmax may round to just above 1, which torchmetrics would take for a logit and squash.
    scores = probabilities[:, drawn].clamp(0, 1)
    return multilabel_auroc(scores, positive[:, drawn], scores.shape[1], validate_args=False)


def expected_calibration_error(probabilities: Tensor, target: Tensor, bins: int = 15) -> Tensor:
    r"""Gap between confidence and accuracy, averaged over equal bins of confidence (Guo et al., ICML 2017, eq. 3).

    .. math:: \sum_{b=1}^{B} \frac{n_b}{N} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|,
        \qquad b \text{ holds confidences in } \left(\tfrac{b-1}{B}, \tfrac{b}{B}\right]

    torchmetrics puts a confidence of exactly 1 in a bin of its own, and saturated networks give many: hence this one.

    Args:
        probabilities: ``(N, C)`` in [0, 1].
        target: ``(N,)`` integer labels.
        bins: Number of bins ``B``.

    Returns:
        Scalar float64 in [0, 1].
    """
    confidence, prediction = probabilities.double().max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probabilities.device)
    gap = (prediction == target).double() - confidence
    per_bin = gap.new_zeros(bins).index_add_(0, torch.bucketize(confidence, edges[1:-1]), gap)
    return per_bin.abs().sum() / len(gap)


def bootstrap_intervals(
    target: Tensor,
    prediction: Tensor,
    num_classes: int,
    *,
    groups: Tensor | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap confidence intervals of macro-F1 and accuracy.

    Both scores depend on a resample only through its confusion matrix, so no item is ever copied. Drawing ``N`` items
    with replacement is one multinomial draw over the ``C * C`` cells; drawing ``G`` groups is one multinomial draw of
    how often each group is taken, times the groups' own matrices.

    Args:
        target: ``(N,)`` integer labels.
        prediction: ``(N,)`` predicted classes.
        num_classes: Number of classes ``C``.
        groups: ``(N,)`` integer ids of what was sampled independently (patients, say), resampled as wholes because
            the images of one patient are not independent; ``None`` resamples items.
        confidence: Coverage of the interval, in (0, 1).
        resamples: Number of bootstrap samples.
        seed: Seed of the draws; equal seeds give equal intervals.

    Returns:
        ``macro_f1`` and ``accuracy`` to ``(low, high)``.

    Raises:
        UsageError: The set is empty, lengths differ, or a label, ``confidence`` or ``resamples`` is out of range.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, got {resamples}")
    lengths = [len(ids) for ids in (target, prediction, groups) if ids is not None]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise UsageError(f"target, prediction and groups must be non-empty and of one length, got lengths {lengths}")
    check_labels(target, num_classes)
    check_labels(prediction, num_classes)

    cells = (target.long() * num_classes + prediction.long()).cpu().numpy()
    rng = np.random.default_rng(seed)
    if groups is None:
        taken = np.bincount(cells, minlength=num_classes**2)
        counts = rng.multinomial(len(cells), taken / len(cells), size=resamples).astype(np.float64)
    else:
        ids, group = np.unique(groups.cpu().numpy(), return_inverse=True)
        per_group = np.zeros((len(ids), num_classes**2))
        np.add.at(per_group, (group, cells), 1)
        counts = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples) @ per_group

    confusions = torch.from_numpy(counts).view(resamples, num_classes, num_classes)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    intervals = {}
    for name, score in (("macro_f1", macro_f1), ("accuracy", accuracy)):
        low, high = torch.quantile(score(confusions), tails).tolist()
        intervals[name] = (low, high)
    return intervals


class ClassificationMetrics(Metric):
    """The classification scores of a whole evaluation set, fed batch by batch.

    Nothing is averaged over batches: counts and losses are summed, probabilities are kept, and the scores are computed
    once from all of them. So they do not depend on the batch size, nor on how the set is cut over ranks.

    Args:
        num_classes: Number of classes ``C``.
        **kwargs: As for any torchmetrics metric. ``sync_on_compute=False`` where every rank sees the whole set: the
            scores are then equal on all ranks without communication.

    Attributes:
        confusion: ``(C, C)`` int64 counts, rows are the true classes.
    """

    is_differentiable = False
    full_state_update = False

    confusion: Tensor
    nll: Tensor
    probabilities: list[Tensor] | Tensor
    targets: list[Tensor] | Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 2:
            raise UsageError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: ``(N, C)`` floating point.
            target: ``(N,)`` integer labels.

        Raises:
            UsageError: The shapes do not fit, or a label is outside ``0 .. C - 1``.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or target.shape != logits.shape[:1]:
            raise UsageError(
                f"logits must be (items, {self.num_classes}) and labels (items,), as num_classes={self.num_classes}, "
                f"got shapes {tuple(logits.shape)} and {tuple(target.shape)}"
            )
        check_labels(target, self.num_classes)
        target = target.long()
        probabilities = logits.softmax(1, dtype=torch.float32)
        self.confusion += multiclass_confusion_matrix(
            probabilities.argmax(1), target, self.num_classes, validate_args=False
        )
        self.nll += F.cross_entropy(logits.double(), target, reduction="sum")
        assert isinstance(self.probabilities, list)  # they are tensors only while states of ranks are merged
        assert isinstance(self.targets, list)
        self.probabilities.append(probabilities)
        self.targets.append(target)

    def compute(self) -> dict[str, Tensor]:
        """The scores of all items since the last reset.

        Returns:
            Scalars ``macro_f1`` (the headline), ``accuracy``, ``balanced_accuracy``, ``loss`` (mean cross-entropy per
            item in nats, without class weights or label smoothing, so that runs compare), ``auroc`` and ``ece``.

        Raises:
            UsageError: No item was seen.
        """
        if not self.confusion.any():
            raise UsageError("an evaluation needs at least one item, got none")
        probabilities, targets = self.stored()
        return {
            "macro_f1": macro_f1(self.confusion),
            "accuracy": accuracy(self.confusion),
            "balanced_accuracy": balanced_accuracy(self.confusion),
            "loss": self.nll / self.confusion.sum(),
            "auroc": auroc(probabilities, targets).double(),
            "ece": expected_calibration_error(probabilities, targets),
        }

    def stored(self) -> tuple[Tensor, Tensor]:
        """All items since the last reset: ``(N, C)`` float32 probabilities and ``(N,)`` labels, in order of arrival."""
        return dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
