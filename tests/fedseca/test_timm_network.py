from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedseca.timm_network import Timm
from shared.checkpoints import sha256_of
from shared.errors import UsageError
from shared.federated.vectors import VectorLayout

TINY = "test_vit"  # timm's own model for tests: the smallest there is


@pytest.fixture
def published() -> dict[str, Tensor]:
    """What timm publishes for the model: all its tensors, with a classifier of 1,000 classes."""
    torch.manual_seed(1)
    return timm.create_model(TINY, pretrained=False, num_classes=1000).state_dict()


@pytest.mark.parametrize(
    ("name", "classes", "numbers"),
    [("convnext_nano", 9, 14_958_329), ("deit_small_patch16_224", 10, 21_669_514)],
)
def test_the_papers_backbones_have_the_papers_sizes(name: str, classes: int, numbers: int) -> None:
    with torch.device("meta"):
        network = Timm(3, classes, name)
    assert VectorLayout(network.state_dict()).size == numbers
    assert network.describe() == {"network": name, "pretrained": "none"}


def test_logits_of_a_batch() -> None:
    network = Timm(1, 4, TINY)
    assert network(torch.zeros(2, 1, 160, 160)).shape == (2, 4)


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "model", "plain"])
def test_a_file_of_the_user_starts_the_backbone(
    form: str, published: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(published, path)
    else:
        torch.save(published if form == "plain" else {form: published}, path)
    torch.manual_seed(2)
    network = Timm(3, 4, TINY, init=str(path))
    own = network.network.state_dict()
    assert own["head.weight"].shape[0] == 4
    assert all(torch.equal(own[key], tensor) for key, tensor in published.items() if not key.startswith("head."))
    assert network.describe() == {"network": TINY, "pretrained": "file", "weights_sha256": sha256_of(path)}
    assert f"{len(published) - 2} tensors match)" in capsys.readouterr().out


def test_a_file_without_classifier_will_do(published: dict[str, Tensor], tmp_path: Path) -> None:
    body = {key: tensor for key, tensor in published.items() if not key.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    assert Timm(3, 4, TINY, init=str(tmp_path / "body.safetensors")).pretrained == "file"


def test_files_that_do_not_fit_are_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for change, told in (
        ({"cls_token": None}, r"1 missing \(cls_token\)"),
        ({"stranger": torch.zeros(1)}, r"1 unexpected \(stranger\)"),
        ({"cls_token": torch.zeros(3)}, r"1 of another shape \(cls_token\)"),
    ):
        save_file({key: tensor for key, tensor in (published | change).items() if tensor is not None}, path)
        with pytest.raises(UsageError, match=rf"model.network.init .* belongs to another model: .*{told}"):
            Timm(3, 4, TINY, init=str(path))
    with pytest.raises(UsageError, match=r"model.network.init must be an existing file, got .*absent"):
        Timm(3, 4, TINY, init=str(tmp_path / "absent"))
    # A stem for three channels does not fit grey images, and is not bent to.
    save_file(published, path)
    with pytest.raises(UsageError, match="1 of another shape"):
        Timm(1, 4, TINY, init=str(path))


def test_unknown_models_come_with_the_nearest(published: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match=r"must be a model of timm, got 'convnxt_nano'; did you mean convnext_nano"):
        Timm(3, 4, "convnxt_nano")
