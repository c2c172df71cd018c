"""The grid of ``usssl sweep`` and what is written of it."""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import UsageError
from usssl.grid import cell, check, named_inits
from usssl.sweep import run
from usssl.sweep_report import label_efficiency, markdown, mean_and_sd, table, write_report

SCORES = {
    ("random", "100"): (0.5, 0.7),
    ("random", "5"): (0.2, 0.2),
    ("ours", "100"): (0.8, 0.9),
    ("ours", "5"): (0.4,),
}


def rows() -> list[dict[str, str]]:
    facts = {"mode": "full", "test_images": "40", "data": "phantom", "provenance": "synthetic", "seconds": "1.5"}
    return [
        {"init": init, "fraction": fraction, "seed": str(seed), "macro_f1": str(score)} | facts
        for (init, fraction), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]


def test_mean_and_deviation_over_seeds() -> None:
    got = mean_and_sd(rows(), init="random", mode="full", fraction="100")
    assert got is not None
    assert got == pytest.approx((np.mean([0.5, 0.7]), np.std([0.5, 0.7], ddof=1)))
    assert mean_and_sd(rows(), init="ours", fraction="5") == (0.4, None)
    assert mean_and_sd(rows(), init="none") is None


def test_table_has_a_line_per_start_and_the_largest_share_first() -> None:
    head, lines = table(rows(), "full")
    assert head == ["init", "100 %", "5 %"]
    assert lines == [["random", "0.600 ± 0.141", "0.200 ± 0.000"], ["ours", "0.850 ± 0.071", "0.400"]]
    assert markdown(head, lines).splitlines()[1] == "| --- | --- | --- |"


def test_plot_has_the_shares_as_ticks() -> None:
    (axes,) = label_efficiency(rows()).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "100"]


def test_report_is_written(tmp_path: Path) -> None:
    told = write_report(rows(), tmp_path, "usssl sweep")
    assert "0.600 ± 0.141" in told
    assert {path.name for path in tmp_path.iterdir()} == {
        *("table.md", "label_efficiency.png", "report.html", "command.txt")
    }
    assert "synthetic data" in (tmp_path / "report.html").read_text()


def one(
    init: str, tmp_path: Path, mode: str = "full", fraction: float = 5, seed: int = 7, linear_epochs: int = 100
) -> str:
    return cell("a", init, mode, fraction, seed, "finetune", tmp_path, [], linear_epochs).fingerprint


def test_epochs_of_probes_are_no_matter_to_full_training(tmp_path: Path) -> None:
    assert one("random", tmp_path) == one("random", tmp_path, linear_epochs=5)
    assert one("random", tmp_path, "linear") != one("random", tmp_path, "linear", linear_epochs=5)


def test_other_weights_under_the_same_name_are_another_run(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    file.write_bytes(b"one")
    first = one(str(file), tmp_path)
    assert one(str(file), tmp_path) == first
    file.write_bytes(b"two")
    assert one(str(file), tmp_path) != first


def test_every_part_of_a_cell_counts(tmp_path: Path) -> None:
    cells = [one("random", tmp_path, *rest) for rest in [(), ("linear",), ("full", 10), ("full", 5, 8)]]
    assert len(set(cells)) == 4


def test_linear_probes_are_not_augmented(tmp_path: Path) -> None:
    words = cell("a", "random", "linear", 5, 7, "finetune", tmp_path, [], 100).words
    assert words[words.index("--data.augment") + 1] == "null"
    assert "--data.augment" not in cell("a", "random", "full", 5, 7, "finetune", tmp_path, [], 100).words


def test_files_are_named_after_their_runs(tmp_path: Path) -> None:
    checkpoint = tmp_path / "simclr/version_0/checkpoints/epoch=0011.ckpt"
    exported = tmp_path / "byol.safetensors"
    checkpoint.parent.mkdir(parents=True)
    for file in (checkpoint, exported):
        file.touch()
    found = named_inits([str(checkpoint), str(exported), f"mine={exported}", "random"])
    assert found == {"simclr": str(checkpoint), "byol": str(exported), "mine": str(exported), "random": "random"}


@pytest.mark.parametrize(
    ("inits", "told"),
    [
        (["other"], "must be NAME=FILE, FILE, random or imagenet, and files must exist, got other"),
        (["a=missing.ckpt"], "files must exist, got a=missing.ckpt"),
        (["random", "random"], "random twice"),
        ([], "at least one"),
    ],
)
def test_refused_starts(inits: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        named_inits(inits)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--modes", "[]"], "--modes must hold at least one, got"),
        (["--fractions", "[]"], "--fractions must hold at least one, got"),
        (["--modes", "[half]"], "--modes must hold some of full, linear, got half"),
        (["--fractions", "[0]"], r"--fractions must lie in \(0, 100\] percent, got 0"),
        (["--linear_epochs", "0"], "--linear_epochs must be at least 1, got 0"),
    ],
)
def test_refused_options(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        run(["sweep", "--inits", "[random]", "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_a_wrong_option_of_a_sweeps_runs_is_told_before_they_begin() -> None:
    check(("finetune", "--model.freeze", "true"))
    with pytest.raises(UsageError, match=r"unknown option model.freez; did you mean .*model.freeze"):
        check(("finetune", "--model.freez", "true"))
