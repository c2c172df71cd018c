"""The runs of a sweep: what each variant is, and when a finished one counts as the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finelip import grid
from finelip.data import CaptionDataModule
from finelip.grid import AXES, PAPER, cell, check, variants
from finelip.module import FineLIPModule
from finelip.training import FinelipCli
from shared.commands import config_path
from shared.errors import UsageError

PAIRS = ["--data.source.pairs", "8", "--data.source.validation_pairs", "8", "--data.source.test_pairs", "8"]


def chosen(words: Sequence[str]) -> FinelipCli:
    return FinelipCli("finelip", FineLIPModule, CaptionDataModule, words, parse_only=True)


DEFAULT: dict[str, Any] = {
    "stretch_by": "kps",
    "keep": 20,
    "ratio": 4,
    "aggr_ratio": 0.2,
    "refinement": "both",
    "loss": "TripletHinge",
    "global_tokens": "both",
    "direction": "both",
    "slope": 0.1,
    "reduction": "mean",
    "alpha": 0.8,
}

DIFFERENT: dict[str, dict[str, dict[str, Any]]] = {
    "positions": {by: {"stretch_by": by} for by in ("linear", "random", "none")},
    "ratio": {str(share): {"aggr_ratio": share} for share in (0.1, 0.3, 0.4, 0.5)},
    "refinement": {
        how: {"refinement": how}
        for how in (
            *("image", "text", "none"),
            *("select_aggregate_image", "aggregate_select_image", "select_aggregate_both"),
        )
    },
    "loss": {
        "hardest": {},
        "local_info_nce": {"loss": "LocalInfoNCE"},
        "contrastive": {"loss": "GlobalInfoNCE", "refinement": "none", "alpha": 1.0},
        "long_clip": {"loss": "LongClipLoss", "refinement": "none", "alpha": 1.0},
        "filip": {"loss": "FilipLoss", "refinement": "none", "alpha": 0.0, "slope": 1.0, "global_tokens": "none"},
        "sparc": {"loss": "SparcLoss", "refinement": "none", "alpha": 1.0},
        "laps": {"refinement": "select_aggregate_image", "alpha": 0.0},
    },
    "length": {"keep_10": {"keep": 10}, "ratio_8": {"ratio": 8}},
    "global_tokens": {side: {"global_tokens": side} for side in ("none", "image", "text")},
    "score": {
        "t2i": {"direction": "t2i"},
        "i2t": {"direction": "i2t"},
        "slope_1": {"slope": 1.0},
        "sum": {"reduction": "sum"},
    },
}


def test_every_variant_is_asked_for_here() -> None:
    assert {axis: set(values) for axis, values in AXES.items()} == {
        axis: set(values) for axis, values in DIFFERENT.items()
    }
    assert set(PAPER) <= set(AXES)


@pytest.mark.parametrize(("axis", "value"), variants(list(AXES)))
def test_a_variant_differs_in_what_its_name_says(axis: str, value: str, tmp_path: Path) -> None:
    cli = chosen(cell(axis, value, 3, 2, "fit", tmp_path, PAIRS).words)
    told = cli.config["fit"]
    model = cli.part("model")
    found = {name: model[name] for name in DEFAULT if name != "loss"} | {"loss": type(model["loss"]).__name__}
    assert found == DEFAULT | (DIFFERENT[axis][value] if axis else {})
    if found["loss"] == "TripletHinge":
        assert model["loss"].hardest == (value == "hardest")
        assert model["loss"].margin == 0.2
    if found["loss"] in ("GlobalInfoNCE", "LongClipLoss"):
        assert model["loss"].smoothing == 0.1
    # What is not varied is the config's.
    assert (model["init"], model["backbone"]) == ("tiny", "clip_tiny")
    assert (told.seed_everything, told.trainer.max_epochs, told.data.source.init_args.pairs) == (3, 2, 8)
    assert told.run.name == "-".join(filter(None, (axis, value, "3")))


def test_a_config_of_all_runs_decides_less_than_the_variant(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {loss: FilipLoss}\n")
    model = chosen(cell("loss", "long_clip", 3, 2, "fit", tmp_path, [*PAIRS, f"--config={mine}"]).words).part("model")
    assert type(model["loss"]).__name__ == "LongClipLoss"


def test_runs_are_told_apart_by_what_decides_about_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prints() -> dict[tuple[str, str], str]:
        return {each: cell(*each, 1, None, "fit", tmp_path, []).fingerprint for each in variants(list(AXES))}

    before = prints()
    assert len(set(before.values())) == len(before)
    other = tmp_path / "long_clip.yaml"
    other.write_text(config_path("finelip", "long_clip").read_text().replace("components: 32", "components: 8"))
    chain = grid.config_chain
    monkeypatch.setattr(
        grid, "config_chain", lambda package, name: [other] if name == "long_clip" else chain(package, name)
    )
    after = prints()
    assert {each for each in before if before[each] != after[each]} == {("loss", "long_clip")}


def test_a_wrong_option_of_a_sweeps_runs_is_told_before_they_begin() -> None:
    check(("fit", "--model.k_text", "4"))
    with pytest.raises(UsageError, match=r"unknown option model.k_txt; did you mean .*model.k_text"):
        check(("fit", "--model.k_txt", "4"))
