"""The model card that goes with every exported model: what it is, where it comes from, how to load it, its limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from shared.atomic import write_text
from shared.checkpoints import sha256_of
from shared.run_facts import RunFacts, Scores
from shared.text_table import size
from shared.versions import versions

NAME = "MODEL_CARD.md"
NOT_MEDICAL = "Research software, **not a medical device**, not for diagnosis."
"""Stands in the card of every model that is trained on medical images."""


@dataclass(frozen=True)
class ExportedFile:
    """One file that the card goes with.

    Attributes:
        name: Relative to what was exported; never an absolute path.
        size: Bytes.
        sha256: In hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ModelCard:
    """What a model card says. What is not known stays empty and is left out of the text.

    Attributes:
        name: Of the exported file or folder.
        task: What the model is and what it is for, in a sentence or two.
        package: The package that exported it.
        files: Everything that was written.
        loading: Python that loads the model, run from the folder that holds the exported file or folder.
        versions: Of the package and of what decides about numbers, when it was exported.
        model: Facts of the model by name: architecture, parameters, where its first weights come from.
        inputs: By name: shape, units, normalisation.
        outputs: By name: shape, units, names of the classes.
        run: The run that it was trained in.
        training: Further facts of the training, by name.
        limits: What it is not good for, or what the file lacks; a sentence each.
        medical: Whether it is trained on medical images.
    """

    name: str
    task: str
    package: str
    files: tuple[ExportedFile, ...]
    loading: str
    versions: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    run: RunFacts = RunFacts()  # noqa: RUF009 - frozen
    training: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    medical: bool = False


def to_markdown(card: ModelCard) -> str:
    """The card as Markdown. The same card always gives the same text.

    Example:
        >>> file = ExportedFile("m.safetensors", 1234, "ab12")
        >>> print(to_markdown(ModelCard("m.safetensors", "A toy.", "toy", (file,), "print(1)")))
        # m.safetensors
        <BLANKLINE>
        A toy.
        <BLANKLINE>
        ## Files
        <BLANKLINE>
        | file | size | SHA-256 |
        | --- | --- | --- |
        | m.safetensors | 1,234 B (1.234 kB) | `ab12` |
        <BLANKLINE>
        ## Loading
        <BLANKLINE>
        Exported by `toy`. Run from the folder that holds `m.safetensors`:
        <BLANKLINE>
        ```python
        print(1)
        ```
        <BLANKLINE>
    """
    run = card.run
    history = {
        "data": run.data and run.data + (run.provenance and f" ({run.provenance} data)"),
        "command": run.command and f"`{run.command}`",
        "date": run.date,
        "seed": run.seed,
        **card.training,
        "versions of the training": _named(run.versions),
    }
    files = [[file.name, f"{file.size:,} B ({size(file.size)})", f"`{file.sha256}`"] for file in card.files]
    exporter = f"{card.package} {card.versions.get(card.package, '')}".strip()
    loading = f"Exported by `{exporter}`. Run from the folder that holds `{card.name}`:"
    parts = [
        f"# {card.name}",
        NOT_MEDICAL if card.medical else "",
        card.task,
        _section("Model", _facts(card.model)),
        _section("Input", _facts(card.inputs)),
        _section("Output", _facts(card.outputs)),
        _section("Training", _facts(history)),
        _section("Measured", "\n\n".join(filter(None, map(_scores, run.scores)))),
        _section("Limits", "\n".join(f"- {limit}" for limit in card.limits)),
        _section("Files", _table(["file", "size", "SHA-256"], files)),
        _section("Loading", f"{loading}\n\n```python\n{card.loading.strip()}\n```"),
        _section("Versions", _named(card.versions)),
        _section("Config of the run", run.config and f"```yaml\n{run.config.strip()}\n```"),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(title: str, text: str) -> str:
    return text and f"## {title}\n\n{text}"


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _named(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _scores(scores: Scores) -> str:
    rows = [[name, f"{value:.4g}"] for name, value in scores.values.items() if isfinite(value)]
    return f"{scores.title}\n\n{_table(['score', 'value'], rows)}" if rows else ""


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


# ---------------------------------------------------------------------- files


def exported_files(path: Path) -> tuple[ExportedFile, ...]:
    """An exported file, or every file of an exported folder but its card, with size and SHA-256."""
    if path.is_file():
        return (ExportedFile(path.name, path.stat().st_size, sha256_of(path)),)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != card_path(path))
    return tuple(ExportedFile(f.relative_to(path).as_posix(), f.stat().st_size, sha256_of(f)) for f in files)


def card_path(path: Path) -> Path:
    """Where the card of an exported file or folder lies: in the folder, or beside the file under a name of its own.

    Two files exported into one folder each keep their card.

    Example:
        >>> card_path(Path("out/m.safetensors")).as_posix()
        'out/m.safetensors.MODEL_CARD.md'
    """
    return path / NAME if path.is_dir() else path.with_name(f"{path.name}.{NAME}")


def write_card(path: Path, card: ModelCard) -> Path:
    """Write the card of an exported file or folder, whole or not at all; returns where."""
    where = card_path(path)
    write_text(where, to_markdown(card))
    return where


def described(path: Path, package: str) -> dict[str, object]:
    """The fields of :class:`ModelCard` that an exported file or folder tells by itself, to be passed by name."""
    return {"name": path.name, "package": package, "files": exported_files(path), "versions": versions(package)}
