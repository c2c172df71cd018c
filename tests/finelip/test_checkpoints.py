"""Weights in and out of every layout, bit for bit, and what is refused."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from finelip.checkpoints.layouts import from_huggingface, openai_names, to_huggingface
from finelip.checkpoints.read import backbone_of, load_clip, read_clip
from finelip.checkpoints.write import one_table, read_model, write_clip
from finelip.finelip import FineLIP
from finelip.positions import stretch
from finelip.tokenizer import LongTokenizer
from finelip.towers import backbone_config, build_clip
from shared.checkpoints import save_tensors
from shared.errors import UsageError

Small = Callable[..., FineLIP]


def clip_state(config: dict[str, Any], seed: int = 5) -> dict[str, Tensor]:
    """A CLIP with 77 positions under OpenAI's names, random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {n: t.detach().clone() for n, t in build_clip(config).state_dict().items()}


def save(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_tensors(path, state)
    else:
        torch.save(state, path)
    return path


def test_names_to_hugging_face_and_back(small: Small) -> None:
    state = clip_state(small().config)
    there = to_huggingface(state)
    assert not {"visual.proj", "text_projection"} & there.keys()
    back = from_huggingface(there)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {f"module.{n}": t for n, t in s.items()},
        lambda s: {"state_dict": {f"module.model.{n}": t for n, t in s.items()}, "epoch": 3},
        lambda s: {"model": s},
        lambda s: s | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)},
        lambda s: {(n if n.startswith(("visual", "logit")) else f"text.{n}"): t for n, t in s.items()},
        to_huggingface,
        lambda s: to_huggingface(s) | {"text_model.embeddings.position_ids": torch.arange(77)[None]},
    ],
    ids=["openai", "module", "state_dict", "model", "numbers", "open_clip", "huggingface", "position_ids"],
)
def test_a_clip_in_any_layout(wrap: Callable[[dict[str, Tensor]], Any], small: Small, tmp_path: Path) -> None:
    model = small()
    state = clip_state(model.config)
    report = load_clip(model, read_clip(save(tmp_path / "clip.pt", wrap(state))))
    loaded = model.state_dict()
    table = stretch(state.pop("positional_embedding"))
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name
    assert torch.equal(loaded["positional_embedding"], table)
    assert torch.equal(loaded["positional_embedding_res"], table)
    assert set(report.stretched) == {"positional_embedding", "positional_embedding_res"}
    assert set(report.new) == {n for n in loaded if n.startswith("cross_net.")}
    assert len(report.matched) == len(state)
    assert str(report).startswith(f"{len(state)} tensors match, 2 stretched (positional_embedding, …), ")


def test_half_precision_is_converted_before_stretching(small: Small, tmp_path: Path) -> None:
    model = small()
    state = {n: t.half() for n, t in clip_state(model.config).items()}
    load_clip(model, read_clip(save(tmp_path / "clip.safetensors", state)))
    table = model.positional_embedding
    assert table.dtype == torch.float32
    assert torch.equal(table, stretch(state["positional_embedding"].float()))


def test_round_trip_over_every_layout(small: Small, tmp_path: Path) -> None:
    """OpenAI to finelip to Hugging Face to finelip, and over finelip's own and OpenAI's layout: the same bits."""
    first = small(seed=1)
    load_clip(first, read_clip(save(tmp_path / "clip.pt", clip_state(first.config))))
    clip = {n: t for n, t in first.state_dict().items() if not n.startswith("cross_net.")}
    for layout, out in (("huggingface", "hf"), ("openai", "o.safetensors"), ("finelip", "f.safetensors")):
        write_clip(first, tmp_path / out, layout)  # type: ignore[arg-type]
        again = small(seed=2)
        report = load_clip(again, read_clip(tmp_path / out))
        for name, tensor in clip.items():
            assert torch.equal(again.state_dict()[name], tensor), (layout, name)
        assert not report.stretched
        assert bool(report.new) == (layout != "finelip")
    whole = read_model(tmp_path / "f.safetensors")
    assert all(torch.equal(whole.state_dict()[n], t) for n, t in first.state_dict().items())


def test_a_written_model_scores_as_before(small: Small, tmp_path: Path) -> None:
    model = small(refinement="image", k_image=2, slope=1.0, keep=10, global_tokens="text", alpha=0.3)
    write_clip(model, tmp_path / "f.safetensors")
    images, tokens = torch.randn(2, 3, 32, 32), LongTokenizer(278)(["a disc", "two red bars"])
    with torch.no_grad():
        scores = model(images, tokens.ids)
        assert torch.equal(read_model(tmp_path / "f.safetensors")(images, tokens.ids), scores)
        assert not torch.equal(read_model(tmp_path / "f.safetensors", alpha=0.9)(images, tokens.ids), scores)


def test_transformers_reads_what_is_written(small: Small, tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.positional_embedding_res += torch.randn_like(model.positional_embedding_res)  # as if trained
    write_clip(model, tmp_path / "hf", "huggingface")
    theirs = CLIPModel.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.text_config.max_position_embeddings == 248
    tokens, images = LongTokenizer(248)(["a disc", "red " * 100]), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = model.encode_text(tokens.ids), model.encode_image(images)
        text = theirs.get_text_features(tokens.ids).pooler_output
        image = theirs.get_image_features(images).pooler_output
    torch.testing.assert_close(ours[0].vector, torch.nn.functional.normalize(text, dim=-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1].vector, torch.nn.functional.normalize(image, dim=-1), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="--out must not exist yet for the layout hf"):
        write_clip(model, tmp_path / "hf", "huggingface")
    with pytest.raises(UsageError, match=r"out must end in \.safetensors for the layout openai"):
        write_clip(model, tmp_path / "clip.pt", "openai")


def test_open_clip_reads_what_is_written(small: Small, tmp_path: Path) -> None:
    model = small()
    write_clip(model, tmp_path / "o.safetensors", "open_clip")
    text = model.config["text_cfg"] | {"context_length": 248}
    theirs = open_clip.CLIP(model.config["embed_dim"], model.config["vision_cfg"], text, quick_gelu=True)
    open_clip.load_checkpoint(theirs, str(tmp_path / "o.safetensors"))
    tokens = LongTokenizer(248)(["a disc", "red " * 100])
    with torch.no_grad():
        vector = theirs.eval().encode_text(tokens.ids, normalize=True)
        torch.testing.assert_close(model.encode_text(tokens.ids).vector, vector, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- released Long-CLIP and FineLIP


def test_keys_of_the_released_models(small: Small) -> None:
    keys = set(small().state_dict())
    inside = ("scale", *(f"weight.{i}.{part}" for i in (0, 1, 3) for part in ("weight", "bias")))
    own = {"positional_embedding_res"} | {f"cross_net.{n}.{k}" for n in ("aggr_net", "cap_aggr_net") for k in inside}
    assert own <= keys
    assert keys - own == set(build_clip(small().config).state_dict())


def test_long_clip_has_two_tables_and_no_aggregators(small: Small, tmp_path: Path) -> None:
    model, source = small(seed=1), small(seed=2)
    with torch.no_grad():
        source.positional_embedding_res.add_(1)
    state = {n: t for n, t in source.state_dict().items() if not n.startswith("cross_net.")}
    path = save(tmp_path / "longclip.pt", state)
    report = load_clip(model, read_clip(path))
    assert not report.stretched
    assert all(torch.equal(model.state_dict()[n], t) for n, t in state.items())
    with pytest.raises(UsageError, match=r"belongs to another model: .* missing \(cross_net.aggr_net.scale"):
        load_clip(model, read_clip(path), require_aggregators=True)


def test_a_finelip_lacking_part_of_its_aggregators_is_refused(small: Small, tmp_path: Path) -> None:
    state = dict(small().state_dict())
    del state["cross_net.cap_aggr_net.weight.1.bias"]
    with pytest.raises(UsageError, match=r"model.init belongs to another model: .* 1 missing \(cross_net.cap_aggr_net"):
        load_clip(small(), read_clip(save(tmp_path / "f.pt", state)))


def test_aggregators_of_a_side_that_is_not_refined_are_left_out(small: Small, tmp_path: Path) -> None:
    path = save(tmp_path / "f.pt", dict(small().state_dict()))
    report = load_clip(small(refinement="image"), read_clip(path))
    assert {name.split(".")[1] for name in report.unused} == {"cap_aggr_net"}
    assert not report.new


# ---------------------------------------------------------------------- refusals


def test_the_activation_is_checked(small: Small, tmp_path: Path) -> None:
    config = small().config | {"quick_gelu": False}
    model = FineLIP(config, k_image=3, k_text=3)
    state = clip_state(config)
    openai = save(tmp_path / "openai.pt", state | {"input_resolution": torch.tensor(32)})
    with pytest.raises(UsageError, match="trained with the activation quick_gelu, but the backbone has gelu: choose"):
        load_clip(model, read_clip(openai))
    write_clip(small(), tmp_path / "hf", "huggingface")
    assert read_clip(tmp_path / "hf").activation == "quick_gelu"
    unknown = read_clip(save(tmp_path / "open_clip.pt", state))
    assert unknown.activation is None
    load_clip(model, unknown)
    write_clip(model, tmp_path / "gelu.safetensors", "openai")
    with pytest.raises(UsageError, match="activation gelu, but the backbone has quick_gelu"):
        load_clip(small(), read_clip(tmp_path / "gelu.safetensors"))


def test_what_is_no_clip_is_refused(small: Small, tmp_path: Path) -> None:
    model = small()
    state = clip_state(model.config)
    with pytest.raises(UsageError, match=r"model\.init must hold a CLIP with a ViT in the layout of"):
        read_clip(save(tmp_path / "other.pt", {"conv1.weight": torch.zeros(1)}))
    with pytest.raises(UsageError, match=r"--init must be an existing file"):
        read_clip(tmp_path / "none.pt", "--init")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"a file or a folder with config.json and model.safetensors, got"):
        read_clip(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "jit.pt", "w") as archive:  # what tells TorchScript from a checkpoint
        archive.writestr("jit/constants.pkl", b"")
    with pytest.raises(UsageError, match="must hold tensors alone, got the TorchScript archive"):
        read_clip(tmp_path / "jit.pt")
    with pytest.raises(UsageError, match=r"one too many|unexpected \(extra"):
        load_clip(model, read_clip(save(tmp_path / "extra.pt", state | {"extra": torch.zeros(1)})))
    shorter = state | {"positional_embedding": state["positional_embedding"][:50]}
    with pytest.raises(UsageError, match="50 text positions, which do not become the 248 of this model"):
        load_clip(model, read_clip(save(tmp_path / "short.pt", shorter)))
    with pytest.raises(UsageError, match="must be a file that finelip wrote with all its weights"):
        read_model(save(tmp_path / "plain.safetensors", one_table(model)))


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-L-14-336-quickgelu"])
def test_the_backbone_is_told_from_the_shapes(name: str) -> None:
    from finelip.checkpoints.read import ClipWeights

    with torch.device("meta"):
        state = build_clip(backbone_config(name)).state_dict()
    for activation, expected in (("quick_gelu", name), (None, name.removesuffix("-quickgelu"))):
        assert backbone_of(ClipWeights(state, "openai", activation, "")) == expected  # type: ignore[arg-type]
    smaller = {n: t for n, t in state.items() if ".resblocks.3." not in n}
    with pytest.raises(UsageError, match="must have the shapes of a known backbone"):
        backbone_of(ClipWeights(smaller, "openai", None, ""))
    partial = {n: t for n, t in state.items() if n != "text_projection"}
    with pytest.raises(UsageError, match=r"model\.init must hold a whole CLIP, but 'text_projection' is missing"):
        backbone_of(ClipWeights(partial, "openai", None, ""))
    assert openai_names(to_huggingface(state)).keys() == state.keys()
