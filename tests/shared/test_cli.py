"""What ``shared.cli`` takes from inside Lightning and jsonargparse, and the words it works out before parsing."""

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.optim import SGD

from shared.cli import built, replace_option
from shared.commands import (
    Program,
    Verb,
    find_config,
    nearest,
    option_of_place,
    option_value,
    run_function,
    with_config_paths,
)
from shared.errors import RunError, UsageError


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_parser", ["self", "subcommand"]),
        ("_parse_ckpt_path", ["self"]),
        ("parse_arguments", ["self", "parser", "args"]),
        ("before_instantiate_classes", ["self"]),
        ("instantiate_trainer", ["self", "kwargs"]),
        ("_set_seed", ["self"]),
    ],
)
def test_the_names_of_lightning_that_we_override_are_there(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(LightningCLI, name)).parameters) == parameters


def test_the_other_private_names_are_there() -> None:
    assert "self._subcommand_parsers" in inspect.getsource(LightningCLI._add_subcommands)
    assert "self._parse_ckpt_path()" in inspect.getsource(LightningCLI.__init__)
    parser = ArgumentParser()
    parser.add_argument("--some.option", type=int)
    assert "some.option" in [action.dest for action in parser._actions]


def test_what_a_library_refuses_names_its_class() -> None:
    with pytest.raises(UsageError, match=r"SGD refuses its options: Invalid learning rate: -1"):
        built(SGD, [nn.Parameter(torch.zeros(1))], lr=-1)


def test_an_error_from_deeper_inside_is_no_wrong_input() -> None:
    class Broken:
        def __init__(self) -> None:
            json.loads("x")

    with pytest.raises(ValueError, match="Expecting value") as raised:
        built(Broken)
    assert not isinstance(raised.value, UsageError)


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("out", ("--out", "out")),
        ("out/a/b.csv", ("--out", "out")),
        ("in", ("--root", "in/x.npz")),
        ("in/x.npz.tmp", ("--root", "in/x.npz")),
        ("elsewhere", None),
        (None, None),
    ],
)
def test_the_option_of_a_place_is_found(place: str | None, option: tuple[str, str] | None) -> None:
    assert option_of_place(["verb", "--out", "out", "--root=in/x.npz", "--flag"], place) == option


def test_words() -> None:
    assert option_value(["--a", "1", "--b=2", "--a=3"], "--a") == "3"
    assert option_value(["--a"], "--a") is None
    assert replace_option(["fit", "--c=1", "--c", "2", "x"], "--c", "z") == ["fit", "--c=z", "--c=z", "x"]


def test_configs_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("")
    words = with_config_paths("fedseca", ["fit", "--config", str(mine), "-c", "resnet18", "--config=averaging", "--x"])
    assert words[2] == str(mine)
    assert words[4].endswith("fedseca/configs/resnet18.yaml")
    assert words[5] == "--config"
    assert words[6].endswith("fedseca/configs/averaging.yaml")
    assert words[7:] == ["--x"]
    # A flag wins over a file, wherever they stand.
    assert with_config_paths("fedseca", ["fit", "--x", "1", "--config", str(mine)]) == [
        *("fit", "--config", str(mine), "--x", "1")
    ]
    with pytest.raises(UsageError, match="did you mean averaging"):
        find_config("fedseca", "average")


def test_a_config_brings_those_that_it_builds_upon(tmp_path: Path) -> None:
    mine, lower = tmp_path / "mine.yaml", tmp_path / "lower.yaml"
    lower.write_text("# Lower.\n# base: resnet18\n\nmodel: {}\n")
    mine.write_text(f"# Mine.\n# base: {lower}\n")
    words = with_config_paths("fedseca", ["fit", f"--config={mine}", "--x", "1", "--config"])
    assert words[:2] == ["fit", "--config"]
    assert words[2].endswith("fedseca/configs/resnet18.yaml")
    assert words[3:] == ["--config", str(lower), "--config", str(mine), "--x", "1", "--config"]
    lower.write_text(f"# base: {mine}\n")
    with pytest.raises(UsageError, match=r"where .*mine.yaml comes twice"):
        with_config_paths("fedseca", ["fit", "--config", str(mine)])


@pytest.mark.parametrize(
    ("words", "texts", "seeds"),
    [
        (["--text", "a cat, a dog"], ["a cat, a dog"], [7]),
        (['--text=a "cat"', "--seeds", "3"], ['a "cat"'], [3]),
        (["--text", '["a cat", b]', "--seeds=[1, 2]"], ["a cat", "b"], [1, 2]),
        (["--seeds", "-1"], [], None),
        ([], [], [7]),
    ],
)
def test_one_value_stands_for_a_list_of_one(words: list[str], texts: list[str], seeds: list[int] | None) -> None:
    seen: list[object] = []

    def verb(text: list[str] = [], seeds: list[int] = [7], out: str = "a") -> None:  # noqa: B006
        """Note them."""
        seen.extend((text, seeds, out))

    if seeds is None:
        with pytest.raises(UsageError, match="seeds"):
            run_function("program", verb, ["verb", *words])
        return
    run_function("program", verb, ["verb", *words, "--out", "b"])
    assert seen == [texts, seeds, "b"]
    with pytest.raises(UsageError, match="text"):
        run_function("program", verb, ["verb", "--text"])


def test_nearest_names() -> None:
    assert nearest("fedseca", ["FedSECA", "FedAvg"]).startswith("did you mean FedSECA")
    assert nearest("zzz", ["b", "a"]) == "choose from a, b"
    assert nearest("zzz", ["a"] * 50) == ""
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [\n", r"got mine.yaml \(line 2: expected the node content"),
        ("hello\n", "got mine.yaml, which holds hello"),
        ("- 1\n", r"got mine.yaml, which holds \[1\]"),
    ],
)
def test_a_config_holds_options(content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content)
    with pytest.raises(UsageError, match=f"--config must be a YAML file of options, {message}"):
        with_config_paths("fedseca", ["fit", "--config", "mine.yaml"])


def usage_error(words: list[str]) -> None:
    raise UsageError("data.x must be\n  even, got 3")


def run_error(words: list[str]) -> None:
    raise RunError("round 3 has too few uploads")


def interrupted(words: list[str]) -> None:
    raise KeyboardInterrupt


def no_folder(words: list[str]) -> None:
    Path("/proc/x").mkdir()


def no_space(words: list[str]) -> None:
    raise OSError(28, "No space left on device", "runs/x")


@pytest.mark.parametrize(
    ("function", "code", "told"),
    [
        ("no_space", 1, "fedseca: cannot read or write: runs/x (No space left on device)"),
        ("no_folder", 2, "fedseca: --out cannot be /proc/x (No such file or directory)"),
        ("usage_error", 2, "fedseca: data.x must be even, got 3"),
        ("run_error", 1, "fedseca: round 3 has too few uploads"),
        ("interrupted", 130, "fedseca: interrupted\n"),
    ],
)
def test_how_commands_end(
    function: str, code: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told_by = (no_space, no_folder, usage_error, run_error, interrupted)
    verbs = SimpleNamespace(**{verb.__name__: verb for verb in told_by})
    monkeypatch.setitem(sys.modules, "verbs_of_this_test", verbs)
    program = Program("fedseca", "test", (Verb("go", "Go.", f"verbs_of_this_test:{function}"),))
    with pytest.raises(SystemExit) as stop:
        program.main(["go", "--out", "/proc/x"])
    assert stop.value.code == code
    assert capsys.readouterr().err.startswith(told)


def test_a_place_is_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        Program("fedseca", "test", (Verb("go", "Go.", "none:none"),)).main(["go", "--out="])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "fedseca: --out must be a place, got ''\n"
