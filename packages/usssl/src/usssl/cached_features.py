"""Features of labelled images, computed once: for a linear probe whose backbone and images never change."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.data.prepared_images import Draw
from shared.distributed import WholeOnEveryRank
from usssl.backbones import Backbone
from usssl.epoch_draws import EpochDraws
from usssl.labelled import Part, PlaneDataModule
from usssl.online_probe import features_of


class Features(Dataset[tuple[Tensor, Tensor]]):
    """Items ``((F,), label)``; the seed of a draw changes nothing."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, Tensor]:
        item = index.item if isinstance(index, Draw) else index
        return self.features[item], self.labels[item]


class CachedFeatures(LightningDataModule):
    """The batches of a :class:`~usssl.labelled.PlaneDataModule` in the same order, with features for images.

    Args:
        data: The images; its training images must not be augmented.
        backbone: In evaluation mode; it must not change any more.
        device: Where to compute.
    """

    def __init__(self, data: PlaneDataModule, backbone: Backbone, device: torch.device) -> None:
        super().__init__()
        self.data, self.backbone, self.device = data, backbone, device
        self._computed: dict[Part, Features] = {}

    def __getattr__(self, name: str) -> Any:
        """Everything else (classes, patients, description) is the data's own."""
        if name in ("data", "_computed"):
            raise AttributeError(name)
        return getattr(self.data, name)

    def setup(self, stage: str | None = None) -> None:
        """Set the data up; features are computed when a loader is asked for."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def features(self, part: Part) -> Features:
        """All items of a part, in order."""
        if part not in self._computed:
            self.backbone.to(self.device)
            self._computed[part] = Features(*features_of(self.backbone, self.data.plain_dataloader(part), self.device))
        return self._computed[part]

    def train_dataloader(self) -> DataLoader[Any]:
        """The training batches."""
        items, size = self.features("train"), self.data.batch_size
        draws = EpochDraws(items, self.data.seed)
        return DataLoader(items, batch_size=size, sampler=draws, drop_last=len(items) % size == 1)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation batches."""
        return self._plain("test" if self.data.val_is_test else "validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test batches."""
        return self._plain("test")

    def _plain(self, part: Part) -> DataLoader[Any]:
        items = self.features(part)
        return DataLoader(items, batch_size=self.data.eval_batch_size, sampler=WholeOnEveryRank(items))
