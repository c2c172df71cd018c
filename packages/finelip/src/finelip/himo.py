"""HiMo: does a caption's score rise as more of it is read?"""

import numpy as np
import torch
from torch import Tensor

from finelip.tokenizer import EOS, vocabulary
from shared.errors import UsageError

STRICT_UP_TO = 3
"""For so many prefixes the score is a share of captions, for more a correlation."""


def ends_sentence(token: int, following: int) -> bool:
    """Whether a token is the end of a sentence: a run of punctuation with one of ``.!?``, unless a digit follows.

    Example:
        >>> [ends_sentence(vocabulary().encode(mark)[0], 0) for mark in (".", "!?", '."', ",", "a")]
        [True, True, True, False, False]
    """
    text = vocabulary().decode([token]).strip()
    if not set(text) & set(".!?") or any(letter.isalnum() for letter in text):
        return False
    return following == EOS or not vocabulary().decode([following]).strip().isdigit()


def sentence_ends(ids: Tensor, length: int) -> list[int]:
    """Slots behind each sentence of one text; the last is that of the end token.

    A prefix of whole sentences has the same tokens whether it is cut from the text or from its tokens.

    Args:
        ids: ``(L,)``, start token first.
        length: Used slots.
    """
    tokens = ids[:length].tolist()
    ends = [slot + 1 for slot in range(1, length - 1) if ends_sentence(tokens[slot], tokens[slot + 1])]
    return ends if ends and ends[-1] == length - 1 else [*ends, length - 1]


def prefixes(ids: Tensor, length: int, parts: int | None) -> Tensor | None:
    """Growing prefixes of a text: its sentences in so many groups of neighbours, the first, the first two, ... all.

    Args:
        ids: ``(L,)``.
        length: Used slots.
        parts: Number of groups; ``None``: every sentence is one.

    Returns:
        ``(parts, L)`` ids with their end tokens, or ``None`` where there are too few sentences.

    Example:
        >>> from finelip.tokenizer import LongTokenizer
        >>> ids, lengths, _ = LongTokenizer(248)("a disc. a bar. a ring.")
        >>> (prefixes(ids[0], int(lengths), 3) != 0).sum(1).tolist()
        [5, 8, 11]
    """
    ends = sentence_ends(ids, length)
    parts = len(ends) if parts is None else parts
    if parts < 2 or len(ends) < parts:
        return None
    rows = torch.zeros(parts, len(ids), dtype=ids.dtype)
    for row, group in enumerate(np.array_split(np.array(ends), parts)):
        end = int(group[-1])
        rows[row, :end] = ids[:end]
        rows[row, end] = EOS
    return rows


def himo(scores: Tensor) -> Tensor:
    r"""Whether, or how well, the scores of growing prefixes rise.

    For :math:`K \le 3` prefixes 1 where :math:`s_1 < s_2 < \dots < s_K`, else 0; for more the Pearson correlation of
    ``k`` with :math:`s_k` (0 where all are equal).

    Source: HiMo-CLIP, AAAI 2026.

    Args:
        scores: ``(N, K)``.

    Returns:
        ``(N,)``; the mean over captions is HiMo@K.

    Raises:
        UsageError: There are fewer than two prefixes.

    Example:
        >>> himo(torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]])).tolist()
        [1.0, 0.0]
        >>> [round(value, 3) for value in himo(torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])).tolist()]
        [1.0, -1.0]
    """
    count = scores.shape[1]
    if count < 2:
        raise UsageError(f"HiMo needs at least two prefixes of a caption, got {count}")
    scores = scores.double()
    if count <= STRICT_UP_TO:
        return (scores[:, 1:] > scores[:, :-1]).all(1).double()
    k = torch.arange(count, dtype=torch.double)
    k, rise = k - k.mean(), scores - scores.mean(1, keepdim=True)
    size = k.norm() * rise.norm(dim=1)
    return torch.where(size > 0, (rise @ k) / size.clamp(min=torch.finfo(torch.double).tiny), 0.0)
