"""How well classes can be told from a backbone's features while it trains."""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from shared.errors import UsageError
from shared.metrics.classification import macro_f1
from usssl.backbones import Backbone
from usssl.labelled import PlaneDataModule


@torch.no_grad()
def features_of(backbone: Backbone, batches: object, device: torch.device) -> tuple[Tensor, Tensor]:
    """``(N, F)`` features and ``(N,)`` labels of batches ``(x, y)``, on the CPU; the backbone in evaluation mode."""
    training = backbone.training
    backbone.eval()
    pairs = [(backbone.features(x.to(device)).float().cpu(), y.cpu()) for x, y in batches]  # type: ignore[attr-defined]
    backbone.train(training)
    return torch.cat([h for h, _ in pairs]), torch.cat([y for _, y in pairs])


def nearest_neighbours(
    support: Tensor, labels: Tensor, query: Tensor, num_classes: int, k: int = 20, temperature: float = 0.1
) -> Tensor:
    """``(M,)`` classes by a vote of the ``k`` nearest in cosine, each with the weight ``exp(cosine / temperature)``.

    Source: Wu et al., CVPR 2018, section 3.4; computed by lightly. Fewer than ``k`` vote where there are fewer.

    Args:
        support: ``(N, F)`` features.
        labels: ``(N,)`` their classes.
        query: ``(M, F)`` features.
        num_classes: Number of classes.
        k: Voters.
        temperature: How fast a vote fades with distance.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> nearest_neighbours(bank, torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.2], [0.1, 1.0]]), 2, k=1)
        tensor([0, 1])
    """
    from lightly.utils.benchmarking.knn import knn_predict  # brings a second copy of lightning along, which takes long

    ranked = knn_predict(
        F.normalize(query, dim=1),
        F.normalize(support, dim=1).T,
        labels.long(),
        num_classes,
        knn_k=min(k, len(support)),
        knn_t=temperature,
    )
    return ranked[:, 0]


def linear_probe(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """``(M,)`` classes by logistic regression on standardised features."""
    scaler = StandardScaler().fit(support.numpy())
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(support.numpy()), labels.numpy())
    return torch.from_numpy(model.predict(scaler.transform(query.numpy())))


class OnlineProbe:
    """k-NN and linear probe on labelled images, every few epochs; the training knows nothing of the labels.

    Args:
        data: Labelled images; its training images vote for its validation images, neither of them augmented.
        every: Epochs between two probes.
        k: Neighbours that vote.
        linear: Whether to fit a linear classifier too.

    Raises:
        UsageError: ``every`` or ``k`` is less than 1.
    """

    def __init__(self, data: PlaneDataModule, every: int = 1, k: int = 20, linear: bool = True) -> None:
        for name, value in (("every", every), ("k", k)):
            if value < 1:
                raise UsageError(f"probe.{name} must be at least 1, got {value}")
        self.data = data
        self.every = every
        self.k = k
        self.linear = linear
        self.ready = False

    def due(self, epoch: int) -> bool:
        """Whether to look after this epoch, counted from 0."""
        return (epoch + 1) % self.every == 0

    def scores(self, backbone: Backbone, device: torch.device) -> dict[str, float]:
        """Macro-F1 of both by name."""
        if not self.ready:
            self.data.prepare_data()
            self.data.setup("fit")
            self.ready = True
        support, labels = features_of(backbone, self.data.plain_dataloader("train"), device)
        query, truth = features_of(backbone, self.data.plain_dataloader("validation"), device)
        classes = self.data.num_classes
        predictions = {"knn": nearest_neighbours(support, labels, query, classes, self.k)}
        if self.linear and len(labels.unique()) > 1:
            predictions["linear"] = linear_probe(support, labels, query)
        result = {}
        for name, predicted in predictions.items():
            result[f"probe/{name}_macro_f1"] = float(macro_f1(multiclass_confusion_matrix(predicted, truth, classes)))
        return result
