"""Which words met which patches: the local score, taken apart without remainder."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import leaky
from finelip.finelip import FineLIP
from finelip.himo import sentence_ends
from finelip.token_aggregation import TokenAggregation, mixture_weights
from finelip.tokenizer import vocabulary
from shared.errors import UsageError

Kind = Literal["score", "cosine"]
Unit = Literal["word", "sentence"]


class Word(NamedTuple):
    """A word of a text, or a sentence, and its slots."""

    text: str
    slots: slice

    @property
    def readable(self) -> bool:
        """Whether it holds a letter or a digit."""
        return any(letter.isalnum() for letter in self.text)


def words_of(ids: Tensor, length: int) -> list[Word]:
    """The words between start and end token; pieces of one word are put together.

    Args:
        ids: ``(L,)``.
        length: Used slots.

    Example:
        >>> from finelip.tokenizer import LongTokenizer
        >>> ids, lengths, _ = LongTokenizer(248)("A microaneurysm, red.")
        >>> [word.text for word in words_of(ids[0], int(lengths))]
        ['a', 'microaneurysm', ',', 'red', '.']
    """
    bpe = vocabulary()
    words, begin = [], 1
    for slot in range(1, length - 1):
        # A text that was cut may end within a word.
        if bpe.decoder[int(ids[slot])].endswith("</w>") or slot == length - 2:
            words.append(Word(bpe.decode(ids[begin : slot + 1].tolist()).strip(), slice(begin, slot + 1)))
            begin = slot + 1
    return words


def sentences_of(ids: Tensor, length: int) -> list[Word]:
    """The sentences of a text; for their ends see :func:`finelip.himo.sentence_ends`.

    Args:
        ids: ``(L,)``.
        length: Used slots.

    Example:
        >>> from finelip.tokenizer import LongTokenizer
        >>> ids, lengths, _ = LongTokenizer(248)("A red disc. Two bars")
        >>> sentences_of(ids[0], int(lengths))
        [Word(text='a red disc .', slots=slice(1, 5, None)), Word(text='two bars', slots=slice(5, 7, None))]
    """
    ends = sentence_ends(ids, length)
    slots = [slice(begin, end) for begin, end in zip([1, *ends], ends, strict=False) if begin < end]
    return [Word(vocabulary().decode(ids[each].tolist()).strip(), each) for each in slots]


def shares(aggregator: TokenAggregation | None, tokens: Tensor) -> Tensor:
    """``(K, N)`` what part each of ``(N, D)`` tokens has in each refined one; the identity without refinement."""
    if aggregator is None:
        return torch.eye(len(tokens))
    return mixture_weights(aggregator.scores(tokens[None]))[0]


@torch.no_grad()
def relevance(model: FineLIP, image: Tensor, ids: Tensor, length: int) -> Tensor:
    r"""``(L, 1 + P)`` parts of the local score of one image and one text; they sum to ``R``.

    ``R`` is a sum of best matches. A match of refined text token ``j`` with refined image token ``i`` that adds ``s``
    is dealt to the slots and patches that the two tokens are mixed from, :math:`s\, A_{jl} B_{ip}`, whose weights
    sum to one. Rows are slots, the last one the end token (the text as a whole); column 0 is the class token (the
    picture as a whole), the others are patches.

    Args:
        model: Whose image set does not depend on the text.
        image: ``(3, S, S)``, normalised.
        ids: ``(L',)``.
        length: Used slots ``L``.

    Raises:
        UsageError: The image set depends on the text.
    """
    if model.pairwise:
        raise UsageError(f"match maps need image sets that stand alone, got a model of refinement {model.refinement}")
    patches, slots = model.image_tokens(image[None])[0], model.text_tokens(ids[None, :length])[0]
    of_image = torch.block_diag(torch.ones(1, 1), shares(model.cross_net.aggr_net, patches[1:]))
    of_text = torch.block_diag(shares(model.cross_net.cap_aggr_net, slots[:-1]), torch.ones(1, 1))
    if model.global_tokens in ("none", "text"):
        of_image = of_image[1:]
    if model.global_tokens in ("none", "image"):
        of_text = of_text[:-1]
    left, right = (F.normalize(mix @ tokens, dim=-1) for mix, tokens in ((of_text, slots), (of_image, patches)))
    similarity = left @ right.T
    parts = torch.zeros(length, len(patches))
    for direction, scores, queries, items in (
        ("t2i", similarity, of_text, of_image),
        ("i2t", similarity.T, of_image, of_text),
    ):
        if model.direction not in ("both", direction):
            continue
        best, place = scores.max(1)
        weights = leaky(best, model.slope, best.dtype) / (len(best) if model.reduction == "mean" else 1)
        found = (weights[:, None] * queries).T @ items[place]
        parts += found if direction == "t2i" else found.T
    return parts


@torch.no_grad()
def cosines(model: FineLIP, image: Tensor, ids: Tensor, length: int) -> Tensor:
    """``(L, 1 + P)`` cosines of projected slots with projected class token and patches, before refinement."""
    patches, slots = model.image_tokens(image[None])[0], model.text_tokens(ids[None, :length])[0]
    return F.normalize(slots, dim=-1) @ F.normalize(patches, dim=-1).T


def word_maps(parts: Tensor, words: list[Word], kind: Kind = "score") -> Tensor:
    """``(words, g, g)`` maps over the grid of patches: the sum of the words' parts, or the mean of their cosines."""
    side = round((parts.shape[1] - 1) ** 0.5)
    rows = [parts[word.slots, 1:].sum(0) if kind == "score" else parts[word.slots, 1:].mean(0) for word in words]
    return torch.stack(rows).view(len(words), side, side) if rows else torch.zeros(0, side, side)


def contrasts(maps: Tensor) -> Tensor:
    """``(words, g, g)`` maps less their mean over all words: what each word sees more than the others do."""
    return maps - maps.mean(0)


def most_telling(weights: Sequence[float], words: list[Word], count: int) -> list[int]:
    """Positions of the readable words of largest weight, in the order of the text.

    A word that occurs again counts once, where its weight is largest.

    Args:
        weights: Of each word.
        words: The words.
        count: At most so many.
    """
    best: dict[str, int] = {}
    for n in sorted(range(len(words)), key=lambda n: (-weights[n], n)):
        if words[n].readable:
            best.setdefault(words[n].text, n)
    return sorted(list(best.values())[:count])
