"""HiMo, captions cut short, and what an evaluation set amounts to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.evaluation import EvaluationSet, cut
from finelip.finelip import FineLIP
from finelip.himo import himo, prefixes, sentence_ends
from finelip.tokenizer import EOS, LongTokenizer, vocabulary
from shared.errors import UsageError
from shared.metrics.retrieval import positions, recall_at, recall_ratio_interval

Small = Callable[..., FineLIP]
TEXTS = [
    "A disc of 3.5 metres. It is red! Is it striped? Yes, it is. The ground is plain.",
    "Two bars. A ring. A star.",
    "A heart, and nothing else",
    "One sentence. Another one.",
    "A disc again. A ring again. A bar again. A star again.",
]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            TEXTS[0],
            ["a disc of 3 . 5 metres .", "it is red !", "is it striped ?", "yes , it is .", "the ground is plain ."],
        ),
        (TEXTS[2], ["a heart , and nothing else"]),
        ('He said "stop." Then he left', ['he said " stop ."', "then he left"]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, sentences: list[str]) -> None:
    tokenizer = LongTokenizer(248)
    ids, lengths, _ = tokenizer(text)
    ends = sentence_ends(ids[0], int(lengths))
    assert ends[-1] == int(lengths) - 1
    starts = [1, *ends[:-1]]
    found = [vocabulary().decode(ids[0, a:b].tolist()).strip() for a, b in zip(starts, ends, strict=True)]
    assert found == sentences


def test_a_prefix_has_the_tokens_of_its_own_text() -> None:
    tokenizer = LongTokenizer(248)
    ids, lengths, _ = tokenizer(TEXTS[4])
    rows = prefixes(ids[0], int(lengths), 2)
    assert rows is not None
    assert torch.equal(rows, tokenizer(["A disc again. A ring again.", TEXTS[4]]).ids)
    every = prefixes(ids[0], int(lengths), None)
    assert every is not None
    assert (every == EOS).sum(1).tolist() == [1, 1, 1, 1]
    assert len(every) == 4
    assert prefixes(ids[0], int(lengths), 5) is None


def test_himo_is_its_definition() -> None:
    scores = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    wanted = [float(torch.corrcoef(torch.stack([torch.arange(6.0), row]))[0, 1]) for row in scores]
    assert himo(scores).tolist() == pytest.approx(wanted, abs=1e-5)
    assert himo(torch.ones(1, 5)).tolist() == [0.0]
    assert himo(torch.tensor([[1.0, 1.0]])).tolist() == [0.0]  # strictly
    with pytest.raises(UsageError, match="at least two prefixes"):
        himo(torch.ones(2, 1))


def batches(model: FineLIP, size: int) -> list[dict[str, Tensor]]:
    ids, lengths, _ = LongTokenizer(248)(TEXTS)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    pair_id = torch.tensor([0, 1, 2, 3, 1])
    whole = {"image": images, "ids": ids, "lengths": lengths, "pair_id": pair_id}
    return [{name: t[start : start + size] for name, t in whole.items()} for start in range(0, 5, size)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_evaluation_set_against_plain_matrices(size: int, small: Small) -> None:
    model = small(seed=6, refinement="image")
    pairs = EvaluationSet(slots=8, himo_captions=4)
    for batch in batches(model, size):
        pairs.add(model, batch)
    found = pairs.scores(model)
    (whole,) = batches(model, 5)
    owner = whole["pair_id"]
    short_ids, short_lengths = cut(whole["ids"], whole["lengths"], 8)
    assert (short_ids[whole["lengths"] > 8, 7] == EOS).all()
    with torch.no_grad():
        image = model.encode_image(whole["image"][:4])
        for prefix, ids, lengths in (("", whole["ids"], whole["lengths"]), ("cut8/", short_ids, short_lengths)):
            text = model.encode_text(ids, lengths)
            coarse = image.vector @ text.vector.T
            fused = 0.8 * coarse + 0.2 * model.local_scores(image.tokens, text.tokens, text.mask)
            for kind, scores in (("global", coarse), ("fused", fused)):
                wanted = positions(scores, owner)
                assert found[f"{prefix}{kind}/i2t_r1"] == pytest.approx(recall_at(wanted.image_to_text, 1))
                assert found[f"{prefix}{kind}/t2i_mean_rank"] == pytest.approx(
                    float(wanted.text_to_image.double().mean()) + 1
                )
        rising = []
        for text in TEXTS[:2]:  # the third has one sentence, the fourth two
            ids, lengths, _ = LongTokenizer(248)(text)
            rows = prefixes(ids[0], int(lengths), 3)
            assert rows is not None
            scores = F.normalize(model.encode_text(rows).vector, dim=-1) @ image.vector[len(rising)]
            rising.append(float(bool((scores[1:] > scores[:-1]).all())))
    assert found["himo@3"] == pytest.approx(sum(rising) / 2)
    assert found["himo@2_captions"] == 3
    assert found["himo@k_captions"] == 1
    assert found["chance/t2i_r1"] == pytest.approx(1 / 4)


def test_ratio_of_recalls() -> None:
    generator = torch.Generator().manual_seed(0)
    hits, others = (torch.rand(300, generator=generator) < share for share in (0.6, 0.2))
    found, other = (torch.where(hit, 0, 3) for hit in (hits, others))
    ratio, low, high = recall_ratio_interval(found, other, 1)
    assert ratio == pytest.approx(float(hits.sum() / others.sum()))
    assert 1 < low < ratio < high
    same = recall_ratio_interval(found, found, 1)
    assert same == (1.0, 1.0, 1.0)  # paired: a ranking against itself has no spread
    assert recall_ratio_interval(found, torch.full_like(found, 9), 1)[0] == float("inf")
    nothing = torch.full((4,), 9)
    assert recall_ratio_interval(nothing, nothing, 1) == (1.0, 1.0, 1.0)
    # Captions of one image stand and fall together, which widens the interval.
    groups = torch.arange(30).repeat_interleave(10)
    clustered = torch.where(groups < 15, 0, 3)
    narrow, wide = (recall_ratio_interval(clustered, torch.where(groups < 6, 0, 3), 1, g) for g in (None, groups))
    assert wide[2] - wide[1] > narrow[2] - narrow[1]
    with pytest.raises(UsageError, match="both rankings must be of the same queries"):
        recall_ratio_interval(found, other[:5], 1)
