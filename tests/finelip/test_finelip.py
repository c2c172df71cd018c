"""The whole model: what it leaves of CLIP, its sets, its parameters, its variants."""

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import local_scores
from finelip.finelip import FineLIP
from finelip.tokenizer import LongTokenizer, Tokens
from finelip.towers import CLIP_TINY
from shared.errors import UsageError

Small = Callable[..., FineLIP]
Captions = Callable[[int], Tokens]


def their_clip(model: FineLIP, table: Tensor) -> open_clip.CLIP:
    """open_clip's own CLIP with the weights of a model and a table of positions."""
    config = model.config
    text = config["text_cfg"] | {"context_length": len(table)}
    clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text, quick_gelu=True).eval()
    wanted = clip.state_dict()
    clip.load_state_dict({n: t for n, t in model.state_dict().items() if n in wanted} | {"positional_embedding": table})
    return clip


def test_stretched_and_not_trained_it_is_clip_up_to_21_tokens() -> None:
    torch.manual_seed(0)
    model = FineLIP(CLIP_TINY).eval()
    old = torch.cat([model.positional_embedding[:20], model.positional_embedding[20::4]])
    assert old.shape == (77, 128)
    clip = their_clip(model, old)
    texts = ["red " * words for words in (0, 1, 10, 19, 20, 40)]  # lengths 2, 3, 12, 21, 22, 42
    tokens = LongTokenizer(248)(texts)
    with torch.no_grad():
        ours = model.encode_text(tokens.ids, tokens.lengths).vector
        theirs = F.normalize(clip.encode_text(tokens.ids[:, :77]), dim=-1)
        images = torch.randn(2, 3, 96, 96)
        image = F.normalize(clip.encode_image(images), dim=-1)
        torch.testing.assert_close(model.encode_image(images).vector, image, rtol=1e-5, atol=1e-5)
    assert tokens.lengths.tolist() == [2, 3, 12, 21, 22, 42]
    torch.testing.assert_close(ours[:4], theirs[:4], rtol=1e-5, atol=1e-5)
    gaps = (ours - theirs).abs().amax(1)
    assert (gaps[4:] > 100 * gaps[:4].max()).all()


@pytest.mark.parametrize(
    ("backbone", "count"), [("ViT-B-16-quickgelu", 149_950_001), ("ViT-L-14-quickgelu", 428_188_705)]
)
def test_parameters(backbone: str, count: int) -> None:
    with torch.device("meta"):
        model = FineLIP(backbone, k_image=39, k_text=39)
    assert sum(p.numel() for p in model.parameters()) == count
    own = sum(p.numel() for p in model.refinement_parameters())
    table = model.positional_embedding.numel()
    clip = count - own - table
    assert clip == {512: 149_708_289, 768: 427_747_841}[model.dim]
    # All but the frozen table is trained, at one of two rates.
    trained = [*model.refinement_parameters(), *model.backbone_parameters()]
    assert len({id(p) for p in trained}) == len(trained)
    assert sum(p.numel() for p in trained) == count - table


@pytest.mark.parametrize(("backbone", "k"), [("ViT-B-16-quickgelu", 39), ("ViT-L-14-quickgelu", 51)])
def test_the_number_of_refined_tokens_follows_the_patches(backbone: str, k: int) -> None:
    with torch.device("meta"):
        model = FineLIP(backbone)
    for net in (model.cross_net.aggr_net, model.cross_net.cap_aggr_net):
        assert net is not None
        assert net.weight[3].out_features == k


def test_sets(small: Small, captions: Captions) -> None:
    model, tokens = small(), captions(5)
    with torch.no_grad():
        image, text = model.encode_image(torch.randn(2, 3, 32, 32)), model.encode_text(tokens.ids)
    assert image.tokens.shape == (2, 4, 24)
    assert text.tokens.shape == (5, 4, 24)
    assert text.mask.all()
    for encoded in (image, text):
        torch.testing.assert_close(encoded.tokens.norm(dim=-1), torch.ones(encoded.tokens.shape[:2]))
    torch.testing.assert_close(image.tokens[:, 0], image.vector)
    torch.testing.assert_close(text.tokens[:, -1], text.vector)


@pytest.mark.parametrize("refinement", ["both", "image", "text", "none"])
def test_sets_are_made_of_the_right_tokens(refinement: str, small: Small, captions: Captions) -> None:
    model, tokens = small(refinement=refinement).double(), captions(5)
    with torch.no_grad():
        raw = model.text_tokens(tokens.ids)
        image_raw = model.image_tokens(torch.randn(2, 3, 32, 32, dtype=torch.float64))
        image, text = model.refine_image(image_raw), model.refine_text(raw, tokens.lengths)
        for row, n in enumerate(tokens.lengths.tolist()):
            body = raw[row, : n - 1]  # the start token takes part, the end token does not
            if model.cross_net.cap_aggr_net is not None:
                body = model.cross_net.cap_aggr_net(body[None])[0]
            expected = F.normalize(torch.cat([body, raw[row, n - 1][None]]), dim=-1)
            torch.testing.assert_close(text.tokens[row][text.mask[row]], expected)
        patches = image_raw[:, 1:]
        if model.cross_net.aggr_net is not None:
            patches = model.cross_net.aggr_net(patches)
        torch.testing.assert_close(image.tokens, F.normalize(torch.cat([image_raw[:, :1], patches], 1), dim=-1))
        torch.testing.assert_close(
            model.local_scores(image.tokens, text.tokens, text.mask),
            local_scores(image.tokens, text.tokens, None, text.mask),
        )
    assert (model.cross_net.aggr_net is not None) == (refinement in ("both", "image"))
    assert (model.cross_net.cap_aggr_net is not None) == (refinement in ("both", "text"))


def test_the_length_of_the_batch_does_not_matter(small: Small, captions: Captions) -> None:
    model, tokens = small().double(), captions(5)
    longer = F.pad(tokens.ids, (0, 248 - tokens.ids.shape[1]))
    with torch.no_grad():
        for one, two in zip(model.encode_text(tokens.ids), model.encode_text(longer), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    with pytest.raises(UsageError, match="at most 248 tokens for this model, got 249"):
        model.encode_text(F.pad(longer, (0, 1)))


def test_only_positions_after_the_kept_ones_are_trained(small: Small, captions: Captions) -> None:
    model, tokens = small().train(), captions(5)
    model(torch.randn(2, 3, 32, 32), tokens.ids).sum().backward()
    gradient = model.positional_embedding_res.grad
    assert gradient is not None
    assert not gradient[:20].any()
    assert gradient[20 : tokens.ids.shape[1]].any(1).all()
    assert not model.positional_embedding.requires_grad
    unused = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert unused == {"logit_scale"}


@pytest.mark.parametrize("refinement", ["select_aggregate_image", "aggregate_select_image", "select_aggregate_both"])
@pytest.mark.parametrize("tokens_in", ["both", "text"])
def test_variants_whose_image_sets_depend_on_the_text(
    refinement: str, tokens_in: str, small: Small, captions: Captions
) -> None:
    """No pairing leaks: a pair's score is the same alone as among others, whatever their order."""
    model, tokens = small(refinement=refinement, global_tokens=tokens_in).double(), captions(5)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        image, text = model.encode_image(images), model.encode_text(tokens.ids)
        scores = model.local_scores(image.tokens, text.tokens, text.mask)
        assert scores.shape == (3, 5)
        for i in range(3):
            for j in range(5):
                alone = model.local_scores(image.tokens[i : i + 1], text.tokens[j : j + 1], text.mask[j : j + 1])
                torch.testing.assert_close(alone[0, 0], scores[i, j], rtol=1e-6, atol=1e-6)
    model.train()
    grads = []
    for train in (True, False):
        model.train(train)
        model.zero_grad()
        model(images, tokens.ids).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refinement": "all"}, "refinement must be one of both, image, text, none, .*, got 'all'"),
        ({"global_tokens": "cls"}, "global_tokens must be one of both, none, image, text, got 'cls'"),
        ({"aggr_ratio": 0.0}, r"aggr_ratio must lie in \(0, 1\], got 0.0"),
        ({"direction": "up"}, "clim direction must be one of"),
        ({"stretch_by": "kpss"}, "stretch must be one of"),
        ({"k_text": 0}, "k_text must be at least 1, got 0"),
        ({"k_image": -1}, "k_image must be at least 1, got -1"),
        ({"alpha": 3.0}, r"alpha must lie in \[0, 1\], got 3.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, small: Small) -> None:
    with pytest.raises(UsageError, match=message):
        small(**options)


def test_fused_scores(small: Small, captions: Captions) -> None:
    tokens, images = captions(4), torch.randn(3, 3, 32, 32)
    scores = {}
    for alpha in (0.0, 0.5, 1.0):
        model = small(alpha=alpha)
        with torch.no_grad():
            image, text = model.encode_image(images), model.encode_text(tokens.ids)
            scores[alpha] = model(images, tokens.ids)
            if alpha == 1:
                assert torch.equal(scores[1.0], image.vector @ text.vector.T)
            if alpha == 0:
                assert torch.equal(scores[0.0], model.local_scores(image.tokens, text.tokens, text.mask))
    torch.testing.assert_close(scores[0.5], (scores[0.0] + scores[1.0]) / 2)
