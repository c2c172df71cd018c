"""Imports point one way, packages -> shared -> third parties, and nothing in the sources unpickles or downloads."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"fedsam", "usssl", "fedseca", "finelip"}
ROOTS = {path.name: path for path in REPOSITORY.glob("*/src/shared")} | {
    path.name: path for path in REPOSITORY.glob("packages/*/src/*") if path.name in PACKAGES
}
UNSAFE_LOADS = {("weights_only", False), ("allow_pickle", True)}
UNWANTED = {
    "pickle": "unpickling runs code from the file",
    "requests": "nothing downloads",
    "urllib.request": "nothing downloads",
}


@cache
def nodes(source: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source.read_text(encoding="utf-8"), str(source))))


def sources() -> Iterator[Path]:
    for root in ROOTS.values():
        yield from root.rglob("*.py")


def imported(source: Path) -> set[str]:
    """What a file imports, at its head or inside a function, each with the packages it lies in: ``a.b``, ``a``."""
    names = set()
    for node in nodes(source):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {".".join(name[: end + 1]) for name in parts for end in range(len(name))}


def test_the_walk_sees_shared_and_every_package() -> None:
    assert ROOTS.keys() == {"shared"} | {path.parent.name for path in REPOSITORY.glob("packages/*/pyproject.toml")}


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_nothing_imports_another_package(name: str) -> None:
    foreign = PACKAGES - {name}
    wrong = {str(path): found for path in ROOTS[name].rglob("*.py") if (found := imported(path) & foreign)}
    assert not wrong


def test_files_are_named_after_what_is_in_them() -> None:
    assert not [path for path in sources() if path.stem in {"utils", "helpers", "common"}]


@pytest.mark.parametrize("library", UNWANTED)
def test_unwanted_libraries_are_not_imported(library: str) -> None:
    importing = {path.name for path in sources() if library in imported(path)}
    # It converts published pickles, on demand, with a reader that builds arrays of numbers and nothing else.
    allowed = {"reference_tree.py"} if library == "pickle" else set()
    assert importing == allowed, UNWANTED[library]


def test_no_load_is_allowed_to_unpickle() -> None:
    wrong = [
        f"{path}:{node.value.lineno}: {node.arg}={node.value.value}"
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant)
        if (node.arg, node.value.value) in UNSAFE_LOADS
    ]
    assert not wrong
