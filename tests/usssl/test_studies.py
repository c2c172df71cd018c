"""The studies: finding clips again; which frames a run of the variance study takes and what is written of it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shared.errors import UsageError
from usssl.backbones import build_backbone
from usssl.cli import main
from usssl.clip_retrieval import centred_pixels, embedded, frames_at, same_clip_rate
from usssl.feature_spread import feature_variance, mean_cosine_distance
from usssl.sources.clips import ArrayReader, Clip
from usssl.trained import backbone_of
from usssl.variance_cell import check, fixed_network, sampling_words, spread
from usssl.variance_report import of_axis, picture, table, write_report
from usssl.variance_study import cell

COMMON = {
    "of": "video",
    "frames": 40,
    "least_share": 5,
    "epoch_frames": 64,
    "network": "random",
    "config": "pretrain",
    "finetune_config": "finetune",
    "pretrain": [],
    "finetune": [],
    "out": "runs",
}
FEW_CLIPS = ["--data.source", "PhantomVideos", "--data.source.videos", "4", "--data.source.validation", "0"]
FEW_CLIPS += ["--data.source.frames", "[40, 40]", "--data.source.size", "32"]


def clips(*lengths: int) -> tuple[Clip, ...]:
    rng = np.random.default_rng(0)
    arrays = {str(n): rng.integers(0, 256, (length, 8, 8), dtype=np.uint8) for n, length in enumerate(lengths)}
    return tuple(Clip(f"c{n}", "", length, ArrayReader(arrays), key=str(n)) for n, length in enumerate(lengths))


def test_clips_are_found_by_the_nearest_vector() -> None:
    rng = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(9, 5, generator=rng), torch.randn(9, 5, generator=rng)
    found = 0
    for n, query in enumerate(queries):
        cosines = [float(query @ other / query.norm() / other.norm()) for other in gallery]
        found += cosines.index(max(cosines)) == n
    assert same_clip_rate(queries, gallery) == found / 9
    assert same_clip_rate(queries, 3 * queries) == 1


def test_pixels_are_compared_by_correlation() -> None:
    pictures = frames_at(clips(3, 3, 3, 3), 1, "--first")
    noisy = [(0.5 * p.astype(float) + 60).astype(np.uint8) for p in frames_at(clips(3, 3, 3, 3), 1, "--first")]
    first, second = (centred_pixels(some, 4, "stretch") for some in (pictures, noisy))
    cosines = torch.nn.functional.cosine_similarity(first[0], second[2], dim=0)
    assert float(cosines) == pytest.approx(np.corrcoef(pictures[0].ravel(), noisy[2].ravel())[0, 1])
    assert same_clip_rate(first, second) == 1
    assert centred_pixels([pictures[0], np.zeros((4, 4), np.uint8)], 6, "stretch").shape == (2, 36)


def test_frames_are_counted_from_either_end() -> None:
    some = clips(3, 5)
    assert np.array_equal(frames_at(some, -1, "--last")[1], some[1].read(4))
    with pytest.raises(UsageError, match="--last must be a frame of every clip, got 3, and c0 has 3"):
        frames_at(some, 3, "--last")
    with pytest.raises(UsageError, match="--last must be a frame of every clip, got -4, and c0 has 3"):
        frames_at(some, -4, "--last")


def test_pictures_are_embedded_in_order() -> None:
    backbone = fixed_network("random")
    pictures = frames_at(clips(1, 1, 1), 0, "--first")
    whole = embedded(backbone, pictures, 32, "stretch", batch=2)
    assert whole.shape == (3, 512)
    torch.testing.assert_close(whole[2:], embedded(backbone, pictures[2:], 32, "stretch"))


def test_the_real_clips_are_found_by_pixels_as_often_as_their_page_says(
    data_pack: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--data.source", "LungClips", "--data.source.root", str(data_pack("lung_us_clips"))]
    options = ["--first", "2", "--last", "20", "--out", str(tmp_path)]
    main(["study", "retrieval", *options, "--", *source, "--data.image_size", "32"])
    with (tmp_path / "retrieval.csv").open() as file:
        rows = {row["init"]: row for row in csv.DictReader(file)}
    assert rows["pixel correlation"]["clips"] == "43"
    assert round(float(rows["pixel correlation"]["top1"]), 2) == 0.74
    assert set(rows) == {"pixel correlation", "random"}
    assert "| pixel correlation | 32 of 43 | 74.4 % |" in capsys.readouterr().out


def test_spread_is_that_of_plain_loops() -> None:
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    assert feature_variance(features) == pytest.approx(np.trace(np.cov(features.numpy().T)), rel=1e-5)
    distances = [
        1 - float(torch.nn.functional.cosine_similarity(features[i], features[j], dim=0))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert mean_cosine_distance(features) == pytest.approx(np.mean(distances), rel=1e-5)
    assert mean_cosine_distance(features[:1].repeat(3, 1)) == pytest.approx(0, abs=1e-12)


def test_one_frame_has_no_spread() -> None:
    data = SimpleNamespace(predict_dataloader=lambda: SimpleNamespace(dataset=[torch.zeros(3, 32, 32)]))
    with pytest.raises(UsageError, match="a run of the study needs at least 2 frames, got 1"):
        spread(data, build_backbone("timm:test_resnet").eval())  # type: ignore[arg-type]


def test_cells_choose_frames_by_their_axis() -> None:
    spec = {"axis": "size", "level": 25, "seed": 7} | COMMON
    assert sampling_words(spec) == ["--data.sampling.frame_skip", "25"]
    words = sampling_words(spec | {"axis": "variance", "level": 10.0})
    assert words[1::2] == ["10", "video", "40"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"pretrain": ["--data.nope", "3"]}, "unknown option data.nope"),
        ({"pretrain": ["--model.backbone", "resnet1"]}, "backbone must be a ResNet or timm:NAME, got 'resnet1'"),
        ({"pretrain": ["--trainer.max_epochs", "-7"]}, "--trainer.max_epochs must be at least -1"),
        ({"epoch_frames": 10}, "data.epoch_frames must be at least 64, got 10"),
        ({"frames": 100000}, r"data.sampling.total must be at most the number of frames \(\d+\), got 100000"),
        ({"finetune": ["--model.nope", "3"]}, "unknown option model.nope"),
        ({"finetune": ["--data.fraction", "0"]}, "data.fraction must lie in"),
        ({"finetune": ["--trainer.max_epochs", "0"]}, "trainer.max_epochs must be at least 1, got 0"),
    ],
)
def test_what_no_run_can_be_is_refused_before_the_first(changed: dict[str, object], told: str, tmp_path: Path) -> None:
    spec = {"axis": "variance", "level": 50.0, "seed": 7} | COMMON | {"frames": 64, "out": str(tmp_path)} | changed
    with pytest.raises(UsageError, match=told):
        check([json.dumps(spec | {"pretrain": [*FEW_CLIPS, *spec["pretrain"]]})])
    assert not any(tmp_path.iterdir())


def test_a_cell_that_can_run_passes_the_check(tmp_path: Path) -> None:
    spec = {"axis": "size", "level": 1.0, "seed": 7} | COMMON | {"out": str(tmp_path), "pretrain": FEW_CLIPS}
    check([json.dumps(spec)])
    assert not any(tmp_path.iterdir())


def test_every_part_of_a_cell_counts_but_not_where_it_is_written() -> None:
    first = cell("size", 5, 7, COMMON)
    assert first.key == {"axis": "size", "level": "5", "seed": "7"}
    assert json.loads(first.words[0])["level"] == 5
    assert cell("size", 5, 7, COMMON | {"out": "elsewhere"}).fingerprint == first.fingerprint
    others = [
        cell("variance", 5, 7, COMMON),
        cell("size", 10, 7, COMMON),
        cell("size", 5, 8, COMMON),
        cell("size", 5, 7, COMMON | {"epoch_frames": 65}),
        cell("size", 5, 7, COMMON | {"pretrain": ["--data.batch_size", "8"]}),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6


def rows() -> list[dict[str, str]]:
    facts = {"patients": "2", "machines": "1", "steps": "10", "feature_variance": "2.5", "cosine_distance": "0.25"}
    facts |= {"network": "random", "test_images": "40", "images": "60", "mode": "linear", "method": "SimCLR"}
    facts |= {"data": "phantom", "pretraining_data": "phantom", "provenance": "synthetic", "seconds": "1.5"}
    levels = [("size", "1", "60", "4"), ("size", "5", "12", "4"), ("variance", "50", "15", "2")]
    return [
        {"axis": axis, "level": level, "seed": str(seed), "frames": frames, "videos": videos} | facts
        | {"macro_f1": str(0.5 + 0.1 * seed)}
        for seed in (0, 1)
        for axis, level, frames, videos in levels
    ]  # fmt: skip


def test_table_has_a_line_per_level_and_what_was_trained_on() -> None:
    head, lines = table(rows(), "size")
    assert head[0] == "every n-th frame"
    assert lines[0] == ["5", "12", "4", "2", "1", "10", "2.5", "0.25", "0.550 ± 0.071"]
    assert [level for level, _ in of_axis(rows(), "size")] == ["5", "1"]
    assert [len(own) for _, own in of_axis(rows(), "variance")] == [2]


def test_report_is_written(tmp_path: Path) -> None:
    told = write_report(rows(), tmp_path, "usssl study variance")
    assert "phantom (synthetic data), linear, 60 labels, 2 seeds" in told
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"table.md", "size.png", "variance.png", "report.html", "command.txt"}
    (axes,) = picture(rows(), "size").axes
    assert axes.get_xscale() == "log"
    assert sorted(axes.get_lines()[0].get_xdata()) == [12, 60]
    assert sorted(label.get_text() for label in axes.get_xticklabels()) == ["12", "60"]


def test_studies_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["study"])
    assert "usssl study variance" in capsys.readouterr().out
    for words, told in (
        (["study", "variances"], "did you mean variance?"),
        (["study", "variance", "--axes", "[width]"], "--axes must hold some of size, variance, got width"),
        (["study", "variance", "--shares", "[0]"], "--shares must lie in (0, 100] percent, got 0"),
        (["study", "variance", "--frames", "0"], "--frames must be at least 2, whose features can differ, got 0"),
        (["study", "variance", "--epoch_frames", "0"], "--epoch_frames must be at least 1, got 0"),
        (["study", "variance", "--seeds", "[-1]"], "--seeds must lie in 0 .. 4294967295, got -1"),
        (["study", "variance", "--finetune", "'"], "--finetune must be options as a shell reads them, got '"),
        (["study", "retrieval", "--seed", "-1"], "--seed must lie in 0 .. 4294967295, got -1"),
        (["study", "retrieval", "--inits", "[a.ckpt]"], "--inits must be NAME=FILE, FILE, random or imagenet"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert told in capsys.readouterr().err


def test_weights_of_the_fixed_network_may_come_from_a_file(tmp_path: Path) -> None:
    main(["export", "--weights", str(saved(tmp_path)), "--out", str(tmp_path / "b.safetensors")])
    again = fixed_network(str(tmp_path / "b.safetensors"))
    wanted = backbone_of(tmp_path / "a.pth")
    assert torch.equal(again.state_dict()["conv1.weight"], wanted.state_dict()["conv1.weight"])


def saved(folder: Path) -> Path:
    path = folder / "a.pth"
    torch.save(fixed_network("random").published().state_dict(), path)
    return path
