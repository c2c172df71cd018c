"""Long captions as CLIP's token ids, with their true lengths."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from shared.errors import UsageError

SOT, EOS = 49406, 49407
"""First and last token of every text."""


class Tokens(NamedTuple):
    """Tokenised texts.

    Attributes:
        ids: ``(B, L)`` int64: start token, text, end token, zeros.
        lengths: ``(B,)`` int64: position of the first end token + 1.
        truncated: ``(B,)`` bool: whether the text was longer.
    """

    ids: Tensor
    lengths: Tensor
    truncated: Tensor


@cache
def vocabulary() -> SimpleTokenizer:
    """CLIP's byte-pair encoding, from the file inside open_clip."""
    return SimpleTokenizer()


def true_lengths(ids: Tensor) -> Tensor:
    """Used slots of each text, start and end token included: index of the first end token + 1.

    Counting the ids that are not zero would be wrong: id 0 is the byte "!" inside a run of punctuation.

    Args:
        ids: ``(B, L)``.

    Returns:
        ``(B,)`` int64.

    Raises:
        UsageError: A text has no end token.

    Example:
        >>> true_lengths(torch.tensor([[SOT, 0, 7, EOS, 0, 0], [SOT, EOS, 0, 0, 0, 0]])).tolist()
        [4, 2]
    """
    ends = ids == EOS
    missing = ~ends.any(1)
    if missing.any():
        raise UsageError(
            f"ids must hold the end token {EOS} in every text, but text {int(missing.nonzero()[0])} has none"
        )
    return ends.int().argmax(1) + 1


def cut_to_longest(ids: Tensor, lengths: Tensor) -> Tensor:
    """Drop the slots that no text of the batch uses; under the causal mask they change nothing in the others.

    Example:
        >>> cut_to_longest(torch.tensor([[SOT, 5, EOS, 0], [SOT, EOS, 0, 0]]), torch.tensor([3, 2])).shape
        torch.Size([2, 3])
    """
    return ids[:, : int(lengths.max())]


class LongTokenizer:
    """open_clip's tokenizer for more than 77 tokens.

    Args:
        context_length: Slots of a text; of a longer one the first slots are kept and the last is the end token.

    Raises:
        UsageError: There is no room for start and end token.

    Example:
        >>> tokens = LongTokenizer(248)(["wow!?!", "a photo of a cat"])
        >>> tokens.ids.shape, tokens.lengths.tolist(), tokens.truncated.tolist()
        (torch.Size([2, 248]), [4, 7], [False, False])
    """

    def __init__(self, context_length: int = 248) -> None:
        if context_length < 2:
            raise UsageError(f"context_length must be at least 2, got {context_length}")
        self.context_length = context_length

    def __call__(self, texts: str | Sequence[str]) -> Tokens:
        """Tokenise.

        Args:
            texts: One or several; newlines count as spaces, letters become lower case.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        truncated = torch.zeros(len(texts), dtype=torch.bool)
        for row, text in enumerate(texts):
            tokens = [SOT, *vocabulary().encode(text), EOS]
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], EOS]
                truncated[row] = True
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return Tokens(ids, true_lengths(ids), truncated)
