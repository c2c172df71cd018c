"""The documentation: complete, without a dead link, and made of the same sections as the page of benchmarks."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from shared.commands import config_names

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PACKAGES = ("fedsam", "fedseca", "finelip", "usssl")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("docs_pages")


@pytest.fixture
def pages(made: ModuleType) -> dict[str, str]:
    """Name of every page to its Markdown."""
    written = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
    return written | made.pages()


def outside_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_every_page_is_in_the_navigation_once(pages: dict[str, str]) -> None:
    def names(entries: list[object]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            below = next(iter(entry.values())) if isinstance(entry, dict) else entry
            found += names(below) if isinstance(below, list) else [str(below)]
        return found

    navigation = names(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    assert sorted(navigation) == sorted(pages)


def test_links_lead_somewhere(pages: dict[str, str]) -> None:
    anchors = {name: {slug(heading) for heading in HEADING.findall(text)} for name, text in pages.items()}
    for name, text in pages.items():
        for link in LINK.findall(outside_code(text)):
            if link.startswith("https://"):
                continue
            target, _, anchor = link.partition("#")
            path = (Path("/") / name).parent / target if target else Path("/") / name
            found = path.resolve().relative_to("/").as_posix()
            picture = found.startswith("results/") and (REPOSITORY / "benchmarks" / found).is_file()
            notebook = found.startswith("notebooks/") and (REPOSITORY / found).is_file()
            assert found in pages or picture or notebook, f"{name}: {link}"
            assert not anchor or anchor in anchors[found], f"{name}: {link}"


def test_no_page_shows_a_picture_of_another_machine(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        assert not re.search(r"!\[[^]]*\]\(http|<(img|script|link|iframe)", text), name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_config_is_in_the_list_with_its_place_in_the_paper(package: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", (DOCS / package / "configs.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == config_names(package)
    assert all(what.strip() and place.strip() for _, what, place in rows)


def test_the_modules_of_the_api_pages_exist(pages: dict[str, str]) -> None:
    roots = [REPOSITORY / "shared/src", *(REPOSITORY / f"packages/{name}/src" for name in PACKAGES)]
    modules = [name for text in pages.values() for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)]
    assert len(modules) == len(set(modules)) > 50
    for module in modules:
        path = module.replace(".", "/")
        assert any((root / f"{path}.py").is_file() or (root / path / "__init__.py").is_file() for root in roots), module


def test_every_section_of_the_page_of_benchmarks_is_in_one_made_page(made: ModuleType) -> None:
    benchmarks = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pages = [text for name, text in made.pages().items() if name != "contributing.md"]
    sections = [section.strip() for text in pages for section in text.split("\n## ")[1:]]
    assert sorted(sections) == sorted(section.strip() for section in benchmarks.split("\n## ")[1:])
    assert all("\n## " in text for text in pages)


def test_an_option_in_running_text_stays_on_one_line(made: ModuleType) -> None:
    block = "<pre><code>fedsam fit --config a.yaml</code></pre>"
    html = f"<p>--no <code>fedsam fit --data.source NAME</code></p>{block}"
    expected = '<p>--no <code>fedsam fit <span class="option">--data.source</span> NAME</code></p>'
    assert made.on_page_content(html) == expected + block
