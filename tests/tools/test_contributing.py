"""The additions that CONTRIBUTING.md shows do what it says, taken from the page itself."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from finelip.finelip import FineLIP
from finelip.losses import EncodedBatch
from finelip.scores import global_scores
from shared.errors import UsageError
from usssl.backbones import build_backbone

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def module(name: str) -> SimpleNamespace:
    """The file ``NAME.py`` of the page."""
    (text,) = re.findall(rf'^```python title="[\w/]+/{name}\.py"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    scope = {"__name__": f"contributing_{name}"}
    exec(compile(text, f"{name}.py", "exec"), scope)
    return SimpleNamespace(**scope)


def test_the_aggregator() -> None:
    rule = module("mid_range").MidRange()
    updates = torch.tensor([[1.0, 5.0], [2.0, -3.0], [9.0, 0.0], [float("nan"), 0.0]])
    assert rule(updates).tolist() == [5.0, 1.0]
    assert rule.diagnostics["dropped"].item() == 1


def test_the_method() -> None:
    method = module("simsiam").SimSiam(build_backbone("timm:test_resnet"), hidden=16, width=8)
    views = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    loss = method.loss(views)
    loss.backward()
    assert -1 <= loss.item() <= 1
    assert all(p.grad is not None for p in method.parameters())
    assert method.recipe().optimizer(method.parameters()).param_groups[0]["lr"] == 0.05


def test_the_reader(tmp_path: Path) -> None:
    source = module("named_files").NamedFiles(tmp_path)
    with pytest.raises(UsageError, match=r"data.source.root must hold pictures CLASS_NAME.png, .* has none"):
        source.load()
    for name in ("dog_1", "cat_1", "dog_2"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"{name}.png")
    train = source.load().train
    assert (train.class_names, train.labels.tolist()) == (("cat", "dog"), [0, 1, 1])


def test_the_loss() -> None:
    model = FineLIP("clip_tiny").eval()
    torch.manual_seed(0)
    lengths, ids = torch.tensor([3, 5, 4]), torch.tensor([0, 1, 0])
    batch = EncodedBatch(torch.randn(3, 37, 128), torch.randn(3, 5, 128), lengths, ids)
    found = module("sigmoid").SigmoidLoss(bias=2.0)(model, batch)
    texts = model.refine_text(batch.text_tokens, lengths).vector
    scores = model.logit_scale.exp() * global_scores(model.refine_image(batch.image_tokens).vector, texts) - 2
    terms = [(scores[i, j] if ids[i] == ids[j] else -scores[i, j]).sigmoid().log() for i in range(3) for j in range(3)]
    torch.testing.assert_close(found, -torch.stack(terms).sum() / 3)
