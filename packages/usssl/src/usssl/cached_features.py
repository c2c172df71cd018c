"""Features of labelled images, computed once: for a linear probe whose backbone and images never change."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.checkpoints import load_tensors, save_tensors
from shared.data.labelled_images import LabelledImages
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


def fingerprint(backbone: Backbone, images: LabelledImages, how: str) -> str:
    """Hash of what features depend on: the weights, the pictures (or path, size and time of their files), and how.

    Args:
        backbone: Its tensors count.
        images: The pictures.
        how: Anything else.
    """
    told = sha256(f"{backbone.name} {how}".encode())
    for name, tensor in backbone.state_dict().items():
        told.update(name.encode())
        told.update(tensor.detach().cpu().numpy().tobytes())
    for file in images.files:
        facts = Path(file).stat()
        told.update(f"{file} {facts.st_size} {facts.st_mtime_ns}".encode())
    if not images.files:
        for picture in images.pixels(np.arange(len(images))):
            told.update(f"{picture.shape}".encode())
            told.update(picture.tobytes())
    return told.hexdigest()[:16]


class CachedFeatures(LightningDataModule):
    """The batches of a :class:`~usssl.labelled.PlaneDataModule` in the same order, with features for images.

    Args:
        data: The images; its training images must not be augmented.
        backbone: In evaluation mode; it must not change any more.
        device: Where to compute.
        folder: Where to keep the features, of all training images and not the chosen ones alone, for later runs with
            the same weights on the same images; ``None`` keeps none.
    """

    def __init__(
        self, data: PlaneDataModule, backbone: Backbone, device: torch.device, folder: Path | None = None
    ) -> None:
        super().__init__()
        self.data, self.backbone, self.device, self.folder = data, backbone, device, folder
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
            images = self.data.images(part)
            if self.folder is None:
                features = self._compute(images)
            elif part == "train":
                features = self._kept(self.data.whole, self.folder)[torch.from_numpy(self.data.selected)]
            else:
                features = self._kept(images, self.folder)
            self._computed[part] = Features(features, torch.from_numpy(images.labels))
        return self._computed[part]

    def _compute(self, images: LabelledImages) -> Tensor:
        self.backbone.to(self.device)
        return features_of(self.backbone, self.data.loader_of(images), self.device)[0]

    def _kept(self, images: LabelledImages, folder: Path) -> Tensor:
        name = fingerprint(self.backbone, images, f"{self.data.image_size} {self.data.resize}")
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            own = file.with_name(f"{os.getpid()}-{file.name}")  # others may be at the same features
            save_tensors(own, {"features": self._compute(images)})
            own.replace(file)
        return load_tensors(file, "--features")["features"]

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
