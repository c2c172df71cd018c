"""Encoding to shards, killed and run again; the index over them; what a search finds."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finelip import encoding
from finelip.encoding import (
    Collection,
    Encoder,
    ShardOptions,
    cut_sentence,
    encode_collection,
    from_pictures,
    from_source,
    from_texts,
)
from finelip.finelip import FineLIP
from finelip.index import CHUNK, Index, build_index, exact_scores, exact_top
from finelip.retrieval import evaluate, search, table_of, truth_of
from finelip.scores import fuse_scores, rerank
from finelip.shards import open_shard
from finelip.sources.pairs import Pair
from shared.errors import RunError, UsageError
from shared.metrics.retrieval import Positions, positions, positions_in_order

Small = Callable[..., FineLIP]
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "pink")
COUNT, TEXTS = 7, 10


class Plain:
    """Pictures of one colour; three of them have two captions; picture ``broken`` cannot be read."""

    name = "plain"
    provenance: Literal["synthetic"] = "synthetic"

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.owner = [*range(COUNT), 0, 1, 2]

    def pairs(self, split: str) -> Sequence[Pair]:
        return [
            Pair(f"{i}.png", f"a {COLOURS[i]} sheet" + ", and nothing else" * (n - i), None, 10 * i)
            for n, i in enumerate(self.owner)
            if split == "test"
        ]

    def picture(self, split: str, index: int) -> Image.Image:
        if self.owner[index] == self.broken:
            raise OSError("cut short")
        noise = np.random.default_rng(self.owner[index]).integers(256, size=(40, 36, 3), dtype=np.uint8)
        return Image.fromarray(noise)


OPTIONS = ShardOptions(shard_size=3, max_unreadable=0.5)


def encode(
    folder: Path, model: FineLIP, collection: Collection | None = None, options: ShardOptions = OPTIONS, batch: int = 2
) -> encoding.Encoded:
    collection = from_source(Plain(), "test") if collection is None else collection
    return encode_collection(collection, "test", Encoder(model, batch), folder, options, progress=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture
def whole(small: Small) -> tuple[FineLIP, dict[str, Tensor]]:
    """A model, and what it makes of each item alone."""
    model = small()
    source = Plain()
    encoder = Encoder(model, 1)
    images = encoder.images([source.picture("test", i).convert("RGB") for i in range(COUNT)])
    texts = encoder.texts([pair.caption for pair in source.pairs("test")])
    return model, {
        "images": images.vector,
        "image_sets": images.tokens,
        "texts": texts.vector,
        "text_sets": texts.tokens,
    }


def test_every_item_is_encoded_as_alone(whole: tuple[FineLIP, dict[str, Tensor]], tmp_path: Path) -> None:
    model, wanted = whole
    done = encode(tmp_path / "e", model)
    assert (done.made, done.kept, done.unreadable, done.truncated) == (7, 0, {}, 0)
    manifest = json.loads((tmp_path / "e/manifest.json").read_text())
    assert manifest["images"] == [f"{i}.png" for i in range(COUNT)]
    assert manifest["texts"][:2] == ["0.png#0", "1.png#0"]
    assert manifest["texts"][3:8] == ["3.png", "4.png", "5.png", "6.png", "0.png#1"]
    assert manifest["owner"] == Plain().owner
    assert len(manifest["model"]) == 64
    for side, sets in (("images", "image_sets"), ("texts", "text_sets")):
        shards = [open_shard(file) for file in sorted((tmp_path / "e").glob(f"{side}-*"))]
        assert np.concatenate([shard["rows"] for shard in shards]).tolist() == list(range(len(wanted[side])))
        for name, stored in ((side, "vectors"), (sets, "tokens")):
            found = torch.from_numpy(np.concatenate([shard[stored] for shard in shards])).float()
            torch.testing.assert_close(found, wanted[name], atol=2e-3, rtol=0)


@pytest.mark.parametrize("after", range(7))
def test_killed_and_run_again_comes_to_the_same_files(
    after: int, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "whole", small())
    made = 0
    write = encoding.write_shard

    def killed(path: Path, tensors: dict[str, Tensor]) -> None:
        nonlocal made
        if made == after:
            path.with_name(path.name + ".tmp").write_bytes(b"half of a sh")
            raise KeyboardInterrupt
        made += 1
        write(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(tmp_path / "again", small())
    done = encode(tmp_path / "again", small())
    assert (done.kept, done.made) == (after, 7 - after)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")
    assert encode(tmp_path / "again", small()).made == 0


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("step", ["write_array", "write_text", "rename", "rename again"])
def test_an_index_that_was_killed_is_built_again(
    step: str, earlier: bool, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a file, before the last one, or between the two renames: nothing lost, nothing left."""
    encode(tmp_path / "e", small())
    more = Collection("more", "real", texts=["x"], captions=["a red disc"])
    encode(tmp_path / "m", small(), more)
    folders, out = [tmp_path / "m", tmp_path / "e"], tmp_path / "i"
    build_index(folders, tmp_path / "whole")
    if earlier:
        build_index(folders[1:], out)
    before = files_of(out) if earlier else None
    rename, calls = Path.rename, 0

    def renamed(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == (2 if step == "rename again" and earlier else 1):
            raise KeyboardInterrupt
        return rename(self, target)

    def half_written(path: Path, _: object) -> None:
        path.write_bytes(b"half of a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step.startswith("rename"):
            patch.setattr(Path, "rename", renamed)
        else:
            patch.setattr(f"finelip.index.{step}", half_written)
        with pytest.raises(KeyboardInterrupt):
            build_index(folders, out)
    if step != "rename again" or not earlier:  # between the renames there is none for a moment
        assert (files_of(out) if out.exists() else None) == before
    build_index(folders, out)
    assert files_of(out) == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "i", "m", "whole"]


def test_a_shard_cut_short_is_made_again(small: Small, tmp_path: Path) -> None:
    encode(tmp_path / "e", small())
    before = files_of(tmp_path / "e")
    (tmp_path / "e/images-00001.safetensors").write_bytes(before["images-00001.safetensors"][:-5])
    assert encode(tmp_path / "e", small()).made == 1
    assert files_of(tmp_path / "e") == before


def test_another_encoding_in_the_folder_is_refused(small: Small, tmp_path: Path) -> None:
    encode(tmp_path / "e", small())
    with pytest.raises(UsageError, match="which differs in model"):
        encode(tmp_path / "e", small(seed=1))
    with pytest.raises(UsageError, match="which differs in precision"):
        encode(tmp_path / "e", small(), options=ShardOptions("int8", 3, max_unreadable=0.5))
    with pytest.raises(UsageError, match="which differs in source"):
        encode(tmp_path / "e", small(), Collection("other", "real", texts=["a"], captions=["b"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="--out must be a new or empty folder"):
        encode(tmp_path / "full", small())


def test_unreadable_pictures_are_left_out_named_and_counted(small: Small, tmp_path: Path) -> None:
    model = small()
    broken = from_source(Plain(broken=1), "test")
    done = encode(tmp_path / "e", model, broken)
    assert done.unreadable == {"1.png": "cut short"}
    assert open_shard(tmp_path / "e/images-00000.safetensors")["rows"].tolist() == [0, 2]
    assert encode(tmp_path / "e", model, broken).unreadable.keys() == {"1.png"}
    build_index([tmp_path / "e"], tmp_path / "i")
    index = Index(tmp_path / "i")
    assert index.names("images") == [f"{i}.png" for i in range(COUNT) if i != 1]
    assert index.about["owner"] == [0, -1, 1, 2, 3, 4, 5, 0, -1, 1]
    truth = truth_of(index)
    assert truth is not None
    assert truth.texts.tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
    with pytest.raises(RunError, match=r"1 of 7 pictures cannot be read, more than --max_unreadable 0\.1 allows"):
        encode(tmp_path / "f", model, broken, ShardOptions(shard_size=3, max_unreadable=0.1))


def test_texts_that_are_too_long_are_cut_and_counted(small: Small, tmp_path: Path) -> None:
    """Also those of shards that were there already."""
    long = "red " * 300
    texts = Collection("long", "real", texts=list("abcd"), captions=[long, "a disc", "two bars", long + "blue"])
    for kept in (0, 2):
        done = encode(tmp_path / "e", small(), texts)
        assert (done.truncated, done.kept) == (2, kept)
    tokens = torch.from_numpy(np.concatenate([open_shard(f)["tokens"] for f in sorted((tmp_path / "e").glob("t*-0*"))]))
    assert torch.equal(tokens[0], tokens[3])  # what follows is not read
    assert cut_sentence(2, 248) == "2 texts have more than 248 tokens and lose their ends"


def test_names_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="every picture must have a name of its own, got 'a' twice"):
        Collection("x", "real", images=["a", "b", "a"])
    with pytest.raises(UsageError, match="every text must have a word, got none in 'b' of x"):
        Collection("x", "real", texts=["a", "b"], captions=["a disc", " \n"])
    with pytest.raises(UsageError, match="there must be something to encode"):
        Collection("x", "real")
    with pytest.raises(
        UsageError, match="--split must be train, validation or test, and not empty in plain, got 'train'"
    ):
        from_source(Plain(), "train")


def test_folders_and_files_of_lines(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a.PNG"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / "p" / name)
    (tmp_path / "p/notes.txt").write_text("x")
    assert from_pictures(tmp_path / "p").images == ["a.PNG", "b/2.jpg"]
    assert from_pictures(tmp_path / "p/a.PNG").images == ["a.PNG"]
    (tmp_path / "t.txt").write_text("first\n\n  third \n")
    found = from_texts(tmp_path / "t.txt")
    assert (found.texts, found.captions) == (["1", "3"], ["first", "third"])
    (tmp_path / "t.txt").write_text("\n")
    for call, told in (
        (lambda: from_texts(tmp_path / "t.txt"), "--texts must hold at least one text"),
        (lambda: from_texts(tmp_path / "none.txt"), "--texts must be an existing file"),
        (lambda: from_pictures(tmp_path / "none"), "--pictures must be a picture or a folder"),
    ):
        with pytest.raises(UsageError, match=told):
            call()
    with pytest.raises(UsageError, match="a text must not be empty"):
        Encoder.texts(None, [" "])  # type: ignore[arg-type]


# ---------------------------------------------------------------------- index


def test_exact_scores_over_chunks_are_one_product() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors, queries = torch.randn(2 * CHUNK + 5, 8, generator=generator).half(), torch.randn(3, 8, generator=generator)
    torch.testing.assert_close(exact_scores(vectors.numpy(), queries), queries @ vectors.float().T)
    scale = torch.rand(len(vectors), generator=generator)
    stored = torch.randint(-127, 128, vectors.shape, dtype=torch.int8, generator=generator)
    wanted = queries @ (stored * scale[:, None]).T
    torch.testing.assert_close(exact_scores(stored.numpy(), queries, scale.numpy()), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top", [1, 3, 8, 30])
def test_the_best_with_ties_by_index(top: int) -> None:
    scores = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(top)).float()
    assert exact_top(scores, top).tolist() == sorted(range(20), key=lambda i: (-scores[i], i))[:top]


def matrices(model: FineLIP, index: Index) -> tuple[Tensor, Tensor]:
    """All global and fused scores of an index, from its own numbers."""
    images, texts = (index.wide_vectors(side, slice(None)) for side in ("images", "texts"))
    (image_sets, _), (text_sets, mask) = (
        index.sets(side, range(len(index.names(side)))) for side in ("images", "texts")
    )
    coarse = images @ texts.T
    with torch.no_grad():
        return coarse, fuse_scores(coarse, model.local_scores(image_sets, text_sets, mask), model.alpha)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("refinement", ["both", "none", "select_aggregate_image"])
def test_searches_against_whole_matrices(precision: Any, refinement: str, small: Small, tmp_path: Path) -> None:
    model = small(refinement=refinement)
    encode(tmp_path / "e", model, options=ShardOptions(precision, 3))
    build_index([tmp_path / "e"], tmp_path / "i")
    index = Index(tmp_path / "i")
    coarse, fused = matrices(model, index)
    plain = Plain()
    encoder = Encoder(model, 3)
    texts = encoder.texts([pair.caption for pair in plain.pairs("test")])
    images = encoder.images([plain.picture("test", i) for i in range(COUNT)])
    for query, own_coarse, own_fused in ((texts, coarse.T, fused.T), (images, coarse, fused)):
        for mode, orders in (
            ("global", own_coarse.argsort(dim=1, descending=True)),
            ("fused", own_fused.argsort(dim=1, descending=True)),
            ("rerank", rerank(own_coarse, lambda items, f=own_fused: f.gather(1, items), 4)),
        ):
            found = search(index, model, query, mode, top=5, rerank_top=4)  # type: ignore[arg-type]
            tolerance = 2e-3 if precision == "fp16" else 3e-2
            for row, (hits, order) in enumerate(zip(found, orders, strict=True)):
                assert len(hits.rows) == 5
                # The query was not stored, so near ties may fall otherwise: compare scores, place by place.
                scores = own_coarse[row] if mode == "global" else own_fused[row]
                count = 4 if mode == "rerank" else 5
                torch.testing.assert_close(
                    scores[hits.rows[:count]].sort().values, scores[order[:count]].sort().values, atol=tolerance, rtol=0
                )
                known = torch.tensor(hits.fused if mode != "global" else hits.coarse)[:count]
                torch.testing.assert_close(known, scores[hits.rows[:count]], atol=tolerance, rtol=0)
    truth = truth_of(index)
    assert truth is not None
    owner = torch.tensor(plain.owner)
    wanted = {"global": positions(coarse, owner), "fused": positions(fused, owner)}
    t2i = rerank(coarse.T, lambda items: fused.T.gather(1, items), 4)
    i2t = rerank(coarse, lambda items: fused.gather(1, items), 4)
    of_image = [min(int((row == text).nonzero()) for text in (owner == i).nonzero()) for i, row in enumerate(i2t)]
    wanted["rerank"] = Positions(torch.tensor(of_image), positions_in_order(t2i, owner))
    for mode, both in wanted.items():
        found_positions = evaluate(index, model, truth, mode, rerank_top=4, tile=(2, 3))  # type: ignore[arg-type]
        assert found_positions.image_to_text.tolist() == both.image_to_text.tolist(), mode
        assert found_positions.text_to_image.tolist() == both.text_to_image.tolist(), mode
    assert evaluate(index, model, truth, "rerank", rerank_top=0).text_to_image.equal(wanted["global"].text_to_image)
    assert evaluate(index, model, truth, "rerank", rerank_top=99).image_to_text.equal(wanted["fused"].image_to_text)


def test_chance_stands_beside_every_recall(small: Small, tmp_path: Path) -> None:
    model = small()
    encode(tmp_path / "e", model)
    build_index([tmp_path / "e"], tmp_path / "i")
    truth = truth_of(index := Index(tmp_path / "i"))
    assert truth is not None
    lines = table_of(truth, evaluate(index, model, truth, "global"))
    chances = {(line.way, line.name): line.chance for line in lines}
    assert chances["text to image", "r1"] == pytest.approx(1 / 7)
    assert chances["image to text", "r5"] == pytest.approx(5 / 10)
    assert chances["image to text", "mean_rank"] is None


def test_an_index_over_two_encodings(small: Small, tmp_path: Path) -> None:
    model = small()
    encode(tmp_path / "e", model)
    more = Collection("more", "real", texts=["x", "y"], captions=["a red disc", "two bars"])
    encode(tmp_path / "m", model, more)
    build_index([tmp_path / "m", tmp_path / "e"], tmp_path / "deep/i")
    index = Index(tmp_path / "deep/i")
    assert index.names("texts")[:3] == ["x", "y", "0.png#0"]
    assert index.about["owner"][:4] == [-1, -1, 0, 1]
    # It may be moved together with its shards.
    (tmp_path / "moved").mkdir()
    for name in ("e", "m", "deep"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    moved = Index(tmp_path / "moved/deep/i")
    tokens, _ = moved.sets("texts", [0, 11])
    alone = Encoder(model).texts(["a red disc", Plain().pairs("test")[9].caption]).tokens
    torch.testing.assert_close(tokens, alone, atol=2e-3, rtol=0)
    assert moved.thumbnail(3) is not None
    with pytest.raises(UsageError, match="--shards must hold each name once, got 'x' twice among the texts"):
        build_index([tmp_path / "moved/m", tmp_path / "moved/m"], tmp_path / "twice")


def test_wrong_indices_are_refused(small: Small, tmp_path: Path) -> None:
    encode(tmp_path / "e", small())
    encode(tmp_path / "other", small(seed=1))
    with pytest.raises(UsageError, match="was made by another model"):
        build_index([tmp_path / "e", tmp_path / "other"], tmp_path / "i")
    with pytest.raises(UsageError, match="--shards must be a folder that finelip encode wrote"):
        build_index([tmp_path], tmp_path / "i")
    with pytest.raises(UsageError, match="--out must be a new folder or an index to replace"):
        build_index([tmp_path / "e"], tmp_path / "other")
    with pytest.raises(UsageError, match="--index must be a folder that finelip index wrote"):
        Index(tmp_path / "e")
    assert not (tmp_path / "i").exists()
    build_index([tmp_path / "e"], tmp_path / "i")
    before = files_of(tmp_path / "i")
    build_index([tmp_path / "e"], tmp_path / "i")
    assert files_of(tmp_path / "i") == before
    Index(tmp_path / "i").require_model(small(), tmp_path)
    with pytest.raises(UsageError, match=r"made by the model of --weights, which is a.ckpt; .* was made by another"):
        Index(tmp_path / "i").require_model(small(seed=1), Path("a.ckpt"))
    shorter = tmp_path / "shorter"
    shutil.copytree(tmp_path / "e", shorter)
    build_index([shorter], tmp_path / "j")
    shutil.copy(shorter / "texts-00003.safetensors", shorter / "texts-00001.safetensors")  # the last holds fewer
    with pytest.raises(RunError, match=r"texts-00001.* has changed since the index was made: run finelip index again"):
        Index(tmp_path / "j").sets("texts", [4])
    (tmp_path / "e/texts-00001.safetensors").unlink()
    with pytest.raises(UsageError, match="1 of 4 shards of texts are missing: run finelip encode again"):
        build_index([tmp_path / "e"], tmp_path / "i")
    assert files_of(tmp_path / "i") == before
    index = Index(tmp_path / "i")
    with pytest.raises(RunError, match="is no whole shard"):
        index.sets("texts", [4])


@pytest.mark.parametrize("options", [{"top": 0}, {"rerank_top": -1}, {"alpha": 1.5}])
def test_numbers_out_of_range(options: dict[str, Any], small: Small, tmp_path: Path) -> None:
    model = small()
    encode(tmp_path / "e", model)
    build_index([tmp_path / "e"], tmp_path / "i")
    with pytest.raises(UsageError, match=f"--{next(iter(options))} must"):
        search(Index(tmp_path / "i"), model, Encoder(model).texts(["a"]), **options)


def test_faiss_finds_what_exact_search_finds(small: Small, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    model = small()
    encode(tmp_path / "e", model)
    build_index([tmp_path / "e"], tmp_path / "i", faiss=True)
    index = Index(tmp_path / "i")
    texts = Encoder(model).texts([pair.caption for pair in Plain().pairs("test")])
    exact, approximate = (search(index, model, texts, "rerank", rerank_top=4, faiss=f) for f in (False, True))
    assert [hits.rows for hits in approximate] == [hits.rows for hits in exact]


def test_without_faiss_one_sentence(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finelip.index.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--faiss true needs the package faiss-cpu"):
        build_index([tmp_path], tmp_path / "i", faiss=True)
    model = small()
    encode(tmp_path / "e", model)
    build_index([tmp_path / "e"], tmp_path / "i")
    query = Encoder(model).texts(["a"])
    with pytest.raises(UsageError, match="--faiss true needs the package faiss-cpu, which is not installed"):
        search(Index(tmp_path / "i"), model, query, faiss=True)
    monkeypatch.setattr("finelip.index.find_spec", lambda name: object())
    with pytest.raises(UsageError, match=r"--faiss true needs an index built with --faiss true, got .*i$"):
        search(Index(tmp_path / "i"), model, query, faiss=True)
