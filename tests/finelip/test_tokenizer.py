"""Ids, true lengths, truncation."""

import open_clip
import pytest
import torch

from finelip.tokenizer import EOS, SOT, LongTokenizer, cut_to_longest, true_lengths
from shared.errors import UsageError

TEXTS = ["a photo of a cat", "", "!?!?! well!!!?!!", "two\nlines, and é — ü", "red " * 300]


def test_ids_are_open_clips() -> None:
    tokens = LongTokenizer(248)(TEXTS)
    theirs = open_clip.tokenizer.SimpleTokenizer(context_length=248)(TEXTS)
    assert torch.equal(tokens.ids, theirs)
    assert torch.equal(LongTokenizer(77)(TEXTS).ids, open_clip.tokenize(TEXTS))


def test_a_text_that_is_too_long_ends_in_the_end_token() -> None:
    tokens = LongTokenizer(248)("red " * 300)
    assert tokens.lengths.tolist() == [248]
    assert tokens.ids[0, 0] == SOT
    assert tokens.ids[0, 247] == EOS
    assert tokens.truncated.tolist() == [True]
    fits = LongTokenizer(248)("red " * 246)
    assert (fits.lengths.tolist(), fits.truncated.tolist()) == ([248], [False])


def test_lengths_go_by_the_end_token() -> None:
    """Id 0 is a byte: whoever counts ids that are not zero takes a slot of the text for the end token."""
    tokens = LongTokenizer(248)(["wow!?!", "!?!?! well!!!?!!", ""])
    assert tokens.ids[1, 1] == 0
    for ids, length in zip(tokens.ids, tokens.lengths, strict=True):
        assert ids[length - 1] == EOS
        assert not ids[length:].any()
        assert (ids[: length - 1] != EOS).all()
    assert tokens.lengths[1] != (tokens.ids[1] != 0).sum()
    assert tokens.lengths[2] == 2


def test_an_end_token_written_out_in_a_text_ends_it() -> None:
    tokens = LongTokenizer(16)("a photo <end_of_text> of a cat")
    assert tokens.lengths.tolist() == [4]


def test_a_missing_end_token_is_refused() -> None:
    with pytest.raises(UsageError, match="must hold the end token 49407 in every text, but text 1 has none"):
        true_lengths(torch.tensor([[SOT, EOS], [SOT, 5]]))
    with pytest.raises(UsageError, match="context_length must be at least 2, got 1"):
        LongTokenizer(1)


def test_a_batch_is_cut_to_its_longest_text() -> None:
    tokens = LongTokenizer(248)(["one", "one two three"])
    assert torch.equal(cut_to_longest(tokens.ids, tokens.lengths), tokens.ids[:, :5])
