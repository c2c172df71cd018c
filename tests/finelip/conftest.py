"""A tiny model with random weights, and texts for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from finelip.finelip import FineLIP
from finelip.tokenizer import LongTokenizer, Tokens, cut_to_longest

CLIP_SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
"""Smaller than ``clip_tiny``: 16 patches, two layers."""

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "pink")


@pytest.fixture
def small() -> Callable[..., FineLIP]:
    """``small(**options)`` is a FineLIP in evaluation mode, equal for equal options and seed."""

    def make(seed: int = 0, **options: Any) -> FineLIP:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FineLIP(CLIP_SMALL, **{"k_image": 3, "k_text": 3, **options}).eval()

    return make


@pytest.fixture
def captions() -> Callable[[int], Tokens]:
    """``captions(count)`` are texts of unequal lengths, cut to the longest."""

    def make(count: int) -> Tokens:
        texts = [f"a {COLOURS[i % 8]} disc" + f", then a {COLOURS[i * 3 % 8]} bar" * (i % 5) for i in range(count)]
        ids, lengths, truncated = LongTokenizer(248)(texts)
        return Tokens(cut_to_longest(ids, lengths), lengths, truncated)

    return make
