"""Hiding parts of pictures and texts: against one pair at a time, and where the shipped model looks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from open_clip import image_transform
from PIL import Image
from torch import Tensor

from finelip.finelip import FineLIP
from finelip.late_detail.rendering import render
from finelip.late_detail.scenes import COLOURS, SHAPES, draw_scene
from finelip.matching import words_of
from finelip.occlusion import interplay, with_cells_hidden
from finelip.tokenizer import LongTokenizer
from finelip.trained import trained_model

Small = Callable[..., FineLIP]


@pytest.mark.parametrize("refinement", ["both", "none", "select_aggregate_image"])
def test_the_interplay_is_its_formula(refinement: str, small: Small) -> None:
    model = small(refinement=refinement, alpha=0.6).double()
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words = ["a", "red", "disc", ",", "two", "bars"]
    tokenizer = LongTokenizer(248)
    ids, lengths, _ = tokenizer(" ".join(words))
    parts = [slice(n, n + 1) for n in range(1, 7)]
    found = interplay(model, image, ids[0], int(lengths), parts, cells=3)

    def score(picture: Tensor, text: list[str]) -> float:
        with torch.no_grad():
            return model(picture[None], tokenizer(" ".join(text)).ids[:, : len(text) + 2]).item()

    assert found.score == pytest.approx(score(image, words))
    edges = [0, 11, 21, 32]
    for u in range(6):
        without = words[:u] + words[u + 1 :]
        assert found.drops[u].item() == pytest.approx(score(image, words) - score(image, without), abs=1e-6)
        for place in range(9):
            hidden = image.clone()
            top, left = divmod(place, 3)
            for channel in range(3):
                hidden[channel, edges[top] : edges[top + 1], edges[left] : edges[left + 1]] = image[channel].mean()
            wanted = score(image, words) - score(hidden, words) - score(image, without) + score(hidden, without)
            assert found.maps[u].flatten()[place].item() == pytest.approx(wanted, abs=1e-6)


def test_every_cell_is_hidden_once() -> None:
    copies = with_cells_hidden(torch.randn(3, 50, 50), 12)
    assert copies.shape == (144, 3, 50, 50)
    changed = (copies != copies.median(0).values).all(1).sum(0)
    assert (changed <= 1).all()
    assert changed.float().mean() > 0.95


def test_the_shipped_model_looks_where_a_colour_is() -> None:
    """Two objects of a scene of three are named; chance is one in nine."""
    model, tokenizer = trained_model("tiny").model, LongTokenizer(248)
    rng, hits = np.random.default_rng(0), []
    for _ in range(8):
        scene = draw_scene(rng, 3)
        named = scene.objects[:2]
        if named[0].colour == named[1].colour:
            continue
        ids, lengths, _ = tokenizer(", ".join(f"a {COLOURS[o.colour]} {SHAPES[o.shape]}" for o in named))
        words = words_of(ids[0], int(lengths))
        image = image_transform(96, is_train=False)(Image.fromarray(render(scene, 96)))
        maps = interplay(model, image, ids[0], int(lengths), [word.slots for word in words]).maps
        for thing in named:
            place = [word.text for word in words].index(COLOURS[thing.colour])
            cells = maps[place].reshape(3, 2, 3, 2).mean((1, 3))  # two by two patches are a place of the scene
            hits.append(int(cells.argmax()) == thing.cell)
    assert len(hits) >= 12
    assert np.mean(hits) > 0.7
