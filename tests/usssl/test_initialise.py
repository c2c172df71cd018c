"""Initial weights from every kind of file that the specification names, and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.checkpoints import save_tensors
from shared.errors import UsageError
from usssl.backbones import ResNetBackbone, build_backbone
from usssl.initialise import SEQUENTIAL, initialise, load_backbone, load_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> ResNetBackbone:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18")
    assert isinstance(backbone, ResNetBackbone)
    with torch.no_grad():
        backbone.layer4[1].bn2.running_mean.add_(1)  # type: ignore[index]
    return backbone


def prefixed(state: State, prefix: str, *copies: str) -> State:
    """The tensors under a prefix, a head beside them, and momentum copies with other values."""
    found = {prefix + name: t for name, t in state.items()}
    for copy in copies:
        found |= {copy + name: t + 1 for name, t in state.items()}
    return found | {prefix.rpartition("backbone.")[0] + "projector.0.weight": torch.zeros(2, 2)}


def sequential(state: State) -> State:
    numbers = {name: number for number, name in SEQUENTIAL.items()}
    renamed = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        renamed[f"backbone.{numbers[first]}.{rest}"] = tensor
    return renamed


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "raw": lambda s: s | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
    "old torchvision without counters": lambda s: {k: t for k, t in s.items() if "num_batches" not in k},
    "model": lambda s: {"model": prefixed(s, "module.backbone."), "epoch": 3},
    "this package": lambda s: {"state_dict": prefixed(s, "method.backbone.", "method.target_backbone."), "usssl": {}},
    "lightning": lambda s: {"state_dict": prefixed(s, "model.backbone."), "optimizer_states": [{"state": {}}]},
    "lightly": lambda s: {"state_dict": prefixed(s, "backbone.", "backbone_momentum.")},
    "lightly, children": lambda s: {
        "state_dict": sequential(s) | {"projection_head.layers.0.weight": torch.zeros(2, 2)}
    },
    "solo-learn": lambda s: {"state_dict": prefixed(s, "backbone.", "momentum_backbone.")},
    "solo-learn, old": lambda s: {"state_dict": prefixed(s, "encoder.", "momentum_encoder.")},
    "MoCo": lambda s: {"state_dict": prefixed(s, "module.encoder_q.", "module.encoder_k."), "arch": "resnet18"},
    "VISSL": lambda s: {
        "classy_state_dict": {
            "base_model": {"model": {"trunk": prefixed(s, "_feature_blocks."), "heads": {"0.weight": torch.zeros(3)}}}
        }
    },
    "VISSL, converted": lambda s: {"model_state_dict": prefixed(s, "trunk._feature_blocks.")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(source: ResNetBackbone, layout: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = source.state_dict()
    torch.save(LAYOUTS[layout](state), path)
    other = build_backbone("resnet18")
    report = load_weights(other, path)
    assert report.complete
    assert len(report.matched) == len(state)
    assert all(torch.equal(t, state[name]) for name, t in other.state_dict().items())
    assert other.pretrained == "file"
    assert len(other.weights_sha256 or "") == 64
    name, found = load_backbone(path)
    assert name == "resnet18"
    assert all(torch.equal(t, state[key]) for key, t in found.items())


def test_safetensors_say_which_backbone_they_hold(tmp_path: Path) -> None:
    backbone = build_backbone("timm:test_resnet")
    path = tmp_path / "tiny.safetensors"
    save_tensors(path, backbone.published().state_dict(), {"backbone": backbone.name})
    name, state = load_backbone(path)
    assert name == "timm:test_resnet"
    assert state.keys() == backbone.published().state_dict().keys()
    other = build_backbone(name)
    initialise(other, str(path))
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), other.parameters(), strict=True))


def refusal(tmp_path: Path, content: Any, name: str = "resnet18") -> str:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    backbone = build_backbone(name)
    before = {key: t.clone() for key, t in backbone.state_dict().items()}
    with pytest.raises(UsageError) as raised:
        load_weights(backbone, path, "model.init")
    assert all(torch.equal(t, before[key]) for key, t in backbone.state_dict().items())
    assert "\n" not in str(raised.value)
    assert backbone.pretrained == "none"
    return str(raised.value)


def test_anything_but_all_tensors_is_refused(source: ResNetBackbone, tmp_path: Path) -> None:
    state = source.state_dict()
    lacking = {k: t for k, t in state.items() if k != "layer3.0.conv1.weight"}
    assert "119 tensors match, 1 missing (layer3.0.conv1.weight)" in refusal(tmp_path, lacking)
    assert "1 of another shape (conv1.weight)" in refusal(tmp_path, state | {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    assert "model.init must hold every tensor of resnet18 and no other" in refusal(tmp_path, {"x.conv1.weight": 1})
    only_copy = {f"momentum_backbone.{k}": t for k, t in state.items()}
    assert "0 tensors match" in refusal(tmp_path, {"state_dict": only_copy})
    # ResNet-34 holds all tensors of ResNet-18 in the same shapes, and more.
    assert "unexpected (layer1.2" in refusal(tmp_path, build_backbone("resnet34").state_dict())
    assert "must hold every tensor of resnet34" in refusal(tmp_path, state, "resnet34")
    torch.save(lacking, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"must hold every tensor of a backbone.*of resnet18 119 tensors match"):
        load_backbone(tmp_path / "weights.pth")


def test_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: ResNetBackbone) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    backbone = build_backbone("resnet18")
    initialise(backbone, "random")
    assert backbone.pretrained == "none"
    with pytest.raises(UsageError, match=r"imagenet needs torchvision's file resnet18-f37072fd.pth, which is not in"):
        initialise(backbone, "imagenet")
    (tmp_path / "checkpoints").mkdir()
    torch.save(
        source.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        tmp_path / "checkpoints/resnet18-f37072fd.pth",
    )
    initialise(backbone, "imagenet")
    assert backbone.pretrained == "file"
    assert torch.equal(backbone.conv1.weight, source.conv1.weight)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="imagenet stands for torchvision's ResNets"):
        initialise(build_backbone("timm:test_resnet"), "imagenet")
    with pytest.raises(UsageError, match=r"backbone_init must be an existing file, got .*absent.pth"):
        initialise(backbone, str(tmp_path / "absent.pth"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(UsageError, match="holds more than tensors and plain values"):
        load_weights(build_backbone("resnet18"), tmp_path / "model.pth")
