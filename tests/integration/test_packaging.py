"""The wheels: what they require, what they contain, and that each works without the clone and the other packages."""

import re
import subprocess
import sys
import tomllib
from functools import partial
from importlib import import_module
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("packages/*/pyproject.toml"))
SOURCES = {"shared": REPOSITORY / "shared/src"} | {name: REPOSITORY / f"packages/{name}/src" for name in PACKAGES}

# Run with the folder of the installed wheels and the package's name: imports every module of the package and of shared
# where neither the clone's sources nor the other packages can be found.
IMPORT_ALL = """
import importlib, pkgutil, sys
from pathlib import Path

target, name, repository = sys.argv[1], sys.argv[2], Path(sys.argv[3])

class OthersAreAbsent:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in {"fedsam", "usssl", "fedseca", "finelip"} - {name}:
            raise ImportError(f"{fullname} is another package")

sys.meta_path.insert(0, OthersAreAbsent())
clone = [repository / "shared/src", *repository.glob("packages/*/src")]
sys.path = [target, *(entry for entry in sys.path if Path(entry).resolve() not in clone)]
for package in (name, "shared"):
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}."):
        importlib.import_module(found.name)
ours = [m for m in sys.modules.values() if m.__name__.partition(".")[0] in (name, "shared")]
strangers = [m.__file__ for m in ours if not Path(m.__file__).is_relative_to(target)]
assert not strangers, strangers
"""

run = partial(subprocess.run, check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each import name, built as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, REPOSITORY / "tools/build_dist.py", folder])
    return {path.name.split("-")[0].removeprefix("medley_"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="session")
def metadata(wheels: dict[str, Path]) -> dict[str, Distribution]:
    return {name: next(iter(distributions(path=[str(wheel)]))) for name, wheel in wheels.items()}


def test_there_is_a_wheel_of_shared_and_of_every_package(wheels: dict[str, Path]) -> None:
    assert wheels.keys() == SOURCES.keys()


def test_all_versions_are_equal(metadata: dict[str, Distribution]) -> None:
    versions = {d.version for d in metadata.values()} | {import_module(name).__version__ for name in SOURCES}
    assert len(versions) == 1


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_requires_shared_of_its_own_version(name: str, metadata: dict[str, Distribution]) -> None:
    requirements = [Requirement(line) for line in metadata[name].requires or []]
    shared = [r for r in requirements if r.name == "medley-shared"]
    assert [str(r.specifier) for r in shared] == [f"=={metadata[name].version}"]
    assert not [r for r in requirements if r.url]
    assert "shared" not in {r.name for r in requirements}  # a stranger's package


@pytest.mark.parametrize("name", PACKAGES)
def test_the_readme_lists_the_extras(name: str) -> None:
    project = tomllib.loads((REPOSITORY / f"packages/{name}/pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (REPOSITORY / f"packages/{name}/README.md").read_text(encoding="utf-8")
    _, _, section = readme.partition("## Extras\n")
    listed = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert listed == list(project.get("optional-dependencies", {}))


def test_the_build_hooks_are_copies_of_one_file() -> None:
    hooks = {(REPOSITORY / f"packages/{name}/hatch_build.py").read_text(encoding="utf-8") for name in PACKAGES}
    assert len(hooks) == 1


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_wheel_holds_every_file_of_its_sources(name: str, wheels: dict[str, Path]) -> None:
    """Configs and samples included."""
    in_wheel = {entry for entry in ZipFile(wheels[name]).namelist() if ".dist-info/" not in entry}
    files = [path for path in (SOURCES[name] / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert in_wheel == {path.relative_to(SOURCES[name]).as_posix() for path in files}
    assert f"{name}/py.typed" in in_wheel


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_embedded_data_stays_small(name: str, wheels: dict[str, Path]) -> None:
    sizes = {PurePosixPath(entry.filename): entry.file_size for entry in ZipFile(wheels[name]).infolist()}
    weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
    text = {".py", ".yaml", ".md", ".typed"}
    data = sum(size for path, size in sizes.items() if path.suffix not in {".safetensors", *text})
    assert weights <= 3e6
    assert data <= 6e6


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_works_from_its_wheels_alone(name: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", tmp_path]
    run([*pip, wheels[name], wheels["shared"]])
    done = run([sys.executable, "-c", IMPORT_ALL, tmp_path, name, REPOSITORY], cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
