"""The card beside an exported model: what it says, what it leaves out, and what it must not say."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from shared.model_card import NOT_MEDICAL, ModelCard, card_path, described, exported_files, to_markdown, write_card
from shared.run_facts import (
    RunFacts,
    Scores,
    command_without_folders,
    config_without_folders,
    names_only,
    run_facts,
)

LOADING = 'from safetensors.torch import load_file\n\nweights = load_file("m.safetensors")'


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "m.safetensors"
    path.parent.mkdir()
    save_file({"w": torch.arange(6.0)}, path)
    return path


def card_of(path: Path, **more: object) -> ModelCard:
    return ModelCard(**described(path, "fedseca"), task="Adds.", loading=LOADING, **more)  # type: ignore[arg-type]


def run_folder(folder: Path, **changes: object) -> Path:
    """A run that ended, with paths of a machine wherever a run may have them."""
    folder.mkdir()
    config = {
        "seed_everything": 7,
        "data": {"source": {"root": "/home/jane doe/scans", "split": None, "share": 1e-08, "name": "7"}},
        "model": {
            "init": "~/weights/start.pth",
            "inits": ["ours=/home/jane doe/a.ckpt", "random"],
            "monitor": "val/dice",
        },
    }
    command = "fedsam fit --data.source.root '/home/jane doe/scans' --model.init=~/weights/start.pth"
    (folder / "config.yaml").write_text(f"# {command}\n{yaml.safe_dump(config, sort_keys=False)}")
    record = {
        "command": command,
        "date": "2026-03-01",
        "seed": 7,
        "metrics": {"val/dice": 0.5, "test/dice": 0.25, "test/other": 1.0, "train/dice": 0.9},
        "data": {
            "name": "kidneys",
            "provenance": "derived",
            "provenances": {"train": ["derived", "real"], "test": ["real"]},
            "validated_on": "test",
        },
        "model": {"pretrained": "file"},
        "versions": {"fedsam": "9.8.7"},
    }
    (folder / "results.json").write_text(json.dumps(record | changes))
    return folder


# ---------------------------------------------------------------------- the text


def test_the_digest_is_that_of_the_file_and_the_code_loads_it(exported: Path, loaded: Callable[[Path], dict]) -> None:
    card = write_card(exported, card_of(exported))
    assert card == exported.with_name("m.safetensors.MODEL_CARD.md")
    content = exported.read_bytes()
    row = f"| m.safetensors | {len(content):,} B ({len(content)} B) | `{hashlib.sha256(content).hexdigest()}` |"
    assert row in card.read_text().splitlines()
    assert loaded(card)["weights"]["w"].tolist() == list(range(6))


def test_a_folder_keeps_its_card_and_lists_every_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "a.onnx").write_bytes(b"a")
    (folder / "part" / "b.json").write_bytes(b"b")
    for _ in range(2):  # the second time the card is there already, and not a part of the model
        card = write_card(folder, card_of(folder))
    assert card == card_path(folder) == folder / "MODEL_CARD.md"
    assert [file.name for file in exported_files(folder)] == ["a.onnx", "part/b.json"]
    for content in (b"a", b"b"):
        assert hashlib.sha256(content).hexdigest() in card.read_text()


def test_two_files_of_one_folder_have_a_card_each(exported: Path) -> None:
    other = exported.with_name("n.safetensors")
    other.write_bytes(b"n")
    cards = [write_card(path, card_of(path)) for path in (exported, other)]
    assert [card.read_text().splitlines()[0] for card in cards] == ["# m.safetensors", "# n.safetensors"]


def test_the_medical_sentence_stands_where_it_belongs(exported: Path) -> None:
    card = card_of(exported)
    assert NOT_MEDICAL == "Research software, **not a medical device**, not for diagnosis."
    assert NOT_MEDICAL in to_markdown(replace(card, medical=True)).splitlines()
    assert "medical" not in to_markdown(card)


def test_what_is_not_known_is_left_out(exported: Path) -> None:
    text = to_markdown(card_of(exported, model={"architecture": "linear", "rank": ""}, inputs={"x": ""}))
    assert "- architecture: linear" in text
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## Model", "## Files", "## Loading", "## Versions"]
    for word in ("rank", "None", "unknown", "nan"):
        assert word not in text


def test_a_score_that_is_no_number_is_left_out(exported: Path) -> None:
    scores = (Scores("Of the test:", {"dice": 0.123456, "hd95": math.nan}), Scores("Of nothing:", {"x": math.inf}))
    text = to_markdown(card_of(exported, run=RunFacts(scores=scores)))
    assert "Of the test:\n\n| score | value |\n| --- | --- |\n| dice | 0.1235 |\n\n" in text
    assert "hd95" not in text
    assert "Of nothing" not in text


def test_the_same_card_gives_the_same_text(exported: Path) -> None:
    assert to_markdown(card_of(exported)) == to_markdown(card_of(exported))


# ---------------------------------------------------------------------- the run


def test_a_run_tells_scores_by_split_with_their_provenance(tmp_path: Path, exported: Path) -> None:
    facts = run_facts(run_folder(tmp_path / "run"), lambda name: name.endswith("dice"))
    assert (facts.data, facts.provenance, facts.date, facts.seed) == ("kidneys", "derived", "2026-03-01", "7")
    assert [dict(scores.values) for scores in facts.scores] == [{"val/dice": 0.5}, {"test/dice": 0.25}]
    # Validated on the test split, whose scans are real while those of training are not all.
    title = "Scores of the run after its last epoch, split test of kidneys (real data):"
    assert [scores.title for scores in facts.scores] == [title, title]
    text = to_markdown(card_of(exported, run=facts))
    for line in ("- data: kidneys (derived data)", "- date: 2026-03-01", "- versions of the training: fedsam 9.8.7"):
        assert line in text.splitlines()


def test_nothing_of_the_machine_is_told(tmp_path: Path, exported: Path) -> None:
    text = to_markdown(card_of(exported, run=run_facts(run_folder(tmp_path / "run"), lambda name: True)))
    for secret in ("/home", "jane", "doe", "~", "weights/start", str(tmp_path)):
        assert secret not in text, secret
    assert "- command: `fedsam fit --data.source.root scans --model.init=start.pth`" in text.splitlines()
    config = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert config["data"]["source"] == {"root": "scans", "split": None, "share": 1e-08, "name": "7"}
    assert config["model"] == {"init": "start.pth", "inits": ["ours=a.ckpt", "random"], "monitor": "val/dice"}


def test_a_run_that_did_not_end_tells_its_command_and_config(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "results.json").unlink()
    facts = run_facts(folder, lambda name: True)
    assert facts.command == "fedsam fit --data.source.root scans --model.init=start.pth"
    assert facts.config.startswith("seed_everything: 7\n")
    assert (facts.scores, facts.data, facts.date) == ((), "", "")


def test_no_run_is_no_facts() -> None:
    assert run_facts(None, lambda name: True) == RunFacts()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/", ""),
        ("/home/a b/c d", "c d"),
        ("~", ""),
        ("~jane", ""),
        ("../../jane/x", "x"),
        (r"C:\Users\jane doe\x.ckpt", "x.ckpt"),
        (r"\\host\share\x", "x"),
        ("file:///home/jane/x", "x"),
        ("a, /home/jane/x and ~/y", "a, x and y"),
        ("scans/north", "scans/north"),
        ("test/dice", "test/dice"),
        ("1/2", "1/2"),
        ("https://example.org/a", "https://example.org/a"),
    ],
)
def test_paths_become_names(text: str, kept: str) -> None:
    assert names_only(text) == kept


def test_lists_and_tables_in_a_command_are_looked_into() -> None:
    told = command_without_folders(
        """/opt/a/usssl sweep --inits '[random, "ours=/home/jane doe/a.ckpt"]' --x '{a: ~}'"""
    )
    assert told == """usssl sweep --inits '[random, "ours=a.ckpt"]' --x '{a: ~}'"""
    assert config_without_folders("") == ""
