"""Features that are computed once and kept."""

from pathlib import Path

import pytest
import torch

from usssl.backbones import Backbone, build_backbone
from usssl.cached_features import CachedFeatures
from usssl.fetal_heart_phantom.source import PhantomPlanes
from usssl.labelled import PlaneDataModule
from usssl.online_probe import features_of

CPU = torch.device("cpu")


def backbone(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone("timm:test_resnet").eval()


def data(planes: PhantomPlanes, fraction: float = 100, size: int = 32, seed: int = 1) -> PlaneDataModule:
    module = PlaneDataModule(planes, None, image_size=size, fraction=fraction, fraction_seed=seed)
    module.setup()
    return module


def test_kept_features_are_those_of_the_images(small_planes: PhantomPlanes, tmp_path: Path) -> None:
    network = backbone(0)
    for folder in (None, tmp_path):
        some = data(small_planes, 25)
        cached = CachedFeatures(some, network, CPU, folder)
        for part in ("train", "validation", "test"):
            wanted, labels = features_of(network, some.plain_dataloader(part), CPU)  # type: ignore[arg-type]
            found = cached.features(part)  # type: ignore[arg-type]
            torch.testing.assert_close(found.features, wanted)
            assert torch.equal(found.labels, labels)


def test_they_are_computed_once_for_weights_and_images(
    small_planes: PhantomPlanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = backbone(0)
    CachedFeatures(data(small_planes), network, CPU, tmp_path).features("train")
    assert len(list(tmp_path.iterdir())) == 1
    computed: list[int] = []
    monkeypatch.setattr(
        CachedFeatures, "_compute", lambda self, images: computed.append(len(images)) or torch.zeros(len(images), 2)
    )
    for fraction, seed in ((25.0, 1), (50.0, 2)):
        CachedFeatures(data(small_planes, fraction, seed=seed), network, CPU, tmp_path).features("train")
    assert computed == []
    CachedFeatures(data(small_planes), backbone(1), CPU, tmp_path).features("train")
    CachedFeatures(data(small_planes, size=48), network, CPU, tmp_path).features("train")
    CachedFeatures(data(small_planes), network, CPU, tmp_path).features("test")
    assert computed == [60, 60, 40]
