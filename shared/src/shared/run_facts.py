"""What a run tells about the model that it trained, without the paths of the machine that it ran on."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

SPLITS = {"val": "validation", "test": "test"}
_WHOLE = re.compile(r"(file:)?(~|/|\\\\|\.\.[/\\]|[A-Za-z]:[/\\])")
_INSIDE = re.compile(r"(?<![\w.:/\\])(?:file:)?(?:~[\w.-]*/|/|\\\\|\.\.[/\\]|[A-Za-z]:[/\\])[^\s,;:'\"\[\](){}]+")


@dataclass(frozen=True)
class Scores:
    """Measured numbers of one split.

    Attributes:
        title: What was measured, when, on which data, with their provenance.
        values: By name of the metric.
    """

    title: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run; empty where it is not.

    Attributes:
        data: What the training data are called.
        provenance: ``real``, ``derived`` or ``synthetic``.
        command: The command line, without folders of paths.
        config: Text of ``config.yaml``, without folders of paths.
        date: Day on which training ended, in UTC.
        seed: Of the run.
        versions: Of the package and the libraries when it was trained.
        scores: What was measured.
        model: What the model told about itself.
        told: What the data told about themselves.
    """

    data: str = ""
    provenance: str = ""
    command: str = ""
    config: str = ""
    date: str = ""
    seed: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    scores: tuple[Scores, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


def run_facts(folder: Path | None, wanted: Callable[[str], bool]) -> RunFacts:
    """Read a run folder.

    Args:
        folder: With ``config.yaml`` and, where they were reached, ``results.json`` and ``results_test.json``; ``None``
            where the run is not known.
        wanted: Which metrics of ``val/`` and ``test/`` to keep, by name.
    """
    if folder is None:
        return RunFacts()
    fit, test = (_record(folder / name) for name in ("results.json", "results_test.json"))
    config, first = folder / "config.yaml", fit or test
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    # The first line of a config is the command that wrote it: a run that was interrupted has no other record.
    command = fit.get("command", "") or (text.startswith("# ") and text.splitlines()[0].removeprefix("# ")) or ""
    data = first.get("data", {})
    return RunFacts(
        data=names_only(str(data.get("name", ""))),
        provenance=data.get("provenance", ""),
        command=command_without_folders(command),
        config=config_without_folders(text),
        date=fit.get("date", ""),
        seed="" if fit.get("seed") is None else str(fit["seed"]),
        versions=fit.get("versions", {}),
        scores=(*_scores(fit, "of the run after its last epoch", wanted), *_scores(test, "of the run's test", wanted)),
        model=first.get("model", {}),
        told=data,
    )


def _record(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _scores(record: Mapping[str, Any], when: str, wanted: Callable[[str], bool]) -> list[Scores]:
    data, found = record.get("data", {}), []
    for prefix, split in SPLITS.items():
        values = {
            name: value
            for name, value in record.get("metrics", {}).items()
            if name.startswith(f"{prefix}/") and wanted(name)
        }
        split = data.get("validated_on", split) if prefix == "val" else split
        kinds = ", ".join(data.get("provenances", {}).get(split, [])) or data.get("provenance", "")
        whose = names_only(str(data.get("name", ""))) + (kinds and f" ({kinds} data)")
        if values:
            found.append(Scores(f"Scores {when}, split {split}{whose and f' of {whose}'}:", values))
    return found


# ---------------------------------------------------------------------- paths


def names_only(text: str) -> str:
    """A value of an option in which every path that leads out of the working folder is its last part.

    Absolute paths name the user and the machine; paths below the working folder stay as they are.

    Example:
        >>> names_only("/home/someone else/scans"), names_only("ours=~/a/b.ckpt"), names_only("scans/north")
        ('scans', 'ours=b.ckpt', 'scans/north')
    """
    head, equals, rest = text.partition("=")
    if equals and _WHOLE.match(rest):
        return f"{head}={_last(rest)}"
    return _last(text) if _WHOLE.match(text) else _INSIDE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    kind = PureWindowsPath if "\\" in path or re.match(r"(file:)?[A-Za-z]:", path) else PurePosixPath
    name = kind(path).name
    return "" if name.startswith("~") or name == ".." else name


def config_without_folders(text: str) -> str:
    """YAML with :func:`names_only` of every value; comments are dropped, all else stays as it is written."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return ""
    _clean(root)
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=10_000)


def _clean(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":  # a bare ~ is null
        node.value = names_only(node.value)
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _clean(part)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _clean(key)
            _clean(value)


def command_without_folders(command: str) -> str:
    """A command line with :func:`names_only` of every word; the program too is named without its folder.

    Example:
        >>> command_without_folders("fedsam fit --data.source.root '/home/some one/kidneys' --model.init=/tmp/a.pth")
        'fedsam fit --data.source.root kidneys --model.init=a.pth'
    """
    return shlex.join(_word(word) for word in shlex.split(command))


def _word(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if value[:1] in ("[", "{"):
        try:
            return option + equals + config_without_folders(value).strip()
        except yaml.YAMLError:
            pass  # no list after all: a word like any other
    return option + equals + names_only(value)
