"""Small volumes on disk, in the public layouts, and a federation of tiny models that takes seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from fedsam.data import VolumeDataModule
from fedsam.lora_aggregation import FedAvgFactors
from fedsam.losses import CrossEntropyDiceLoss
from fedsam.module import FederatedSegmenter
from fedsam.segmenter import Inference, Scores
from fedsam.volumes import Case, Volume, VolumeSets, VolumeSource
from shared.federated.client import ClientTraining

WriteScan = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def write_scan() -> WriteScan:
    """Writes one NIfTI file and returns its path."""

    def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.9, 2.5, 1]) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def write_pair(write_scan: WriteScan) -> Callable[..., tuple[Path, Path]]:
    """Writes a scan with a bright block and the mask of that block."""

    def write(image: Path, label: Path, shape: tuple[int, ...] = (12, 10, 7), seed: int = 0, **changes: Any) -> Any:
        rng = np.random.default_rng(seed)
        values = rng.normal(100, 5, shape).astype(changes.get("dtype", np.float32))
        mask = np.zeros(shape, changes.get("label_dtype", np.uint8))
        mask[3:8, 2:6, 1:-1] = changes.get("value", 1)
        values[mask > 0] += 50
        affine = changes.get("affine")
        return write_scan(image, values, affine), write_scan(label, mask, affine)

    return write


@dataclass(frozen=True, kw_only=True)
class Block(Case):
    """A bright block in noise, six slices of 20 x 24."""

    seed: int

    def read(self) -> Volume:
        rng = np.random.default_rng(self.seed)
        label = np.zeros((6, 20, 24), np.uint8)
        top, left = rng.integers(2, 9, 2)
        label[1:5, top : top + 8, left : left + 10] = 1
        image = (label + rng.normal(0, 0.1, label.shape)).astype(np.float32)
        return Volume(image, label, np.ones(3), self.site, self.case, "synthetic")

    def fingerprint(self) -> dict[str, Any]:
        return {"seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class Blank(Case):
    """One value everywhere; nothing is marked, or where ``label`` is false nobody looked."""

    label: bool = True

    def read(self) -> Volume:
        image = np.full((6, 20, 24), 7, np.float32)
        label = np.zeros(image.shape, np.uint8) if self.label else None
        return Volume(image, label, np.ones(3), self.site, self.case, "synthetic")

    def fingerprint(self) -> dict[str, Any]:
        return {"blank": self.label}


@dataclass(frozen=True)
class Blocks(VolumeSource):
    """Sites a, b, c ... with so many training volumes each, and one test volume each.

    ``more`` come to the training volumes, and to those for testing.
    """

    train: Sequence[int] = (2, 1, 1)
    more: Sequence[Case] = ()

    def load(self) -> VolumeSets:
        sites = "abcdef"[: len(self.train)]
        return VolumeSets(
            "blocks",
            ("background", "block"),
            [
                Block(site=site, case=f"t{i}", seed=10 * k + i, provenance="synthetic")
                for k, (site, count) in enumerate(zip(sites, self.train, strict=True))
                for i in range(count)
            ]
            + list(self.more),
            test=[Block(site=site, case="test", seed=100 + k, provenance="synthetic") for k, site in enumerate(sites)]
            + [replace(case, case="test-more", patient=None) for case in self.more],
            weights={site: k + 1.0 for k, site in enumerate(sites)},
        )


@pytest.fixture
def blank() -> Callable[..., Case]:
    """A volume without contrast and with an empty mask at a site, or without a mask."""
    return lambda site, label=True: Blank(site=site, case="blank", provenance="synthetic", label=label)


@pytest.fixture
def make_volumes() -> Callable[..., VolumeDataModule]:
    def make(train: Sequence[int] = (2, 1, 1), more: Sequence[Case] = (), **options: Any) -> VolumeDataModule:
        options = {"image_size": 32, "batch_size": 2, "stride": 2, "interpolation": "linear", "seed": 5} | options
        return VolumeDataModule(Blocks(train, more), in_memory=True, **options)

    return make


@pytest.fixture
def make_segmenter() -> Callable[..., FederatedSegmenter]:
    def make(aggregator: Any = None, **options: Any) -> FederatedSegmenter:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "image_size": 32,
            "num_classes": 1,
            "class_names": ["background", "block"],
            "client": ClientTraining(keep_optimizer=True),
            "loss": CrossEntropyDiceLoss(),
            "inference": Inference("fast", scaling="slice"),
            "scores": Scores(distances=False),
            "size": "tiny",
            "rank": 4,
            "lora_init": "reference",
            "seed": 11,
        }
        return FederatedSegmenter(aggregator=aggregator or FedAvgFactors(), **settings | options)

    return make
