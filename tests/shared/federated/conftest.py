"""A federation small enough for seconds: three classes of 8x8 noise around class means, a linear network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.classification import Classifier
from shared.data.datamodule import ClassificationDataModule
from shared.data.labelled_images import LabelledImages
from shared.data.partition import Dirichlet
from shared.data.sources import ImageSets, Source
from shared.federated.data import RoundClock
from shared.federated.fedavg import FedAvg
from shared.federated.module import FederatedModule


class Noise(Source):
    """90 training and 30 test images."""

    def load(self) -> ImageSets:
        rng = np.random.default_rng(5)
        means = rng.integers(60, 190, size=(3, 8, 8, 1))

        def images(count: int) -> LabelledImages:
            labels = np.arange(count) % 3
            pixels = np.clip(means[labels] + rng.normal(0, 25, size=(count, 8, 8, 1)), 0, 255).astype(np.uint8)
            return LabelledImages(pixels, labels, ("a", "b", "c"), name="noise", provenance="synthetic")

        return ImageSets(images(90), images(30))


class NoiseData(RoundClock, ClassificationDataModule):
    pass


class NormalisedNet(nn.Sequential):
    """With batch normalisation, so that running statistics and integer counters travel too."""

    def __init__(self) -> None:
        # A bias before normalisation has no gradient but rounding errors, which Adam would blow up to full steps.
        super().__init__(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.fixture
def make_data() -> Callable[..., NoiseData]:
    def make(**options: Any) -> NoiseData:
        options = {"clients": 4, "partition": Dirichlet(1.0, min_size=3), "batch_size": 8, "seed": 1} | options
        return NoiseData(Noise(), **options)

    return make


@pytest.fixture
def make_module() -> Callable[..., FederatedModule]:
    def make(aggregator: nn.Module | None = None, kind: type[FederatedModule] = FederatedModule, **options: Any) -> Any:
        torch.manual_seed(0)
        return kind(Classifier(NormalisedNet(), 3), aggregator or FedAvg(), **{"seed": 11, **options})

    return make


@pytest.fixture
def weights() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    return lambda module: {name: tensor.clone() for name, tensor in module.state_dict().items()}
