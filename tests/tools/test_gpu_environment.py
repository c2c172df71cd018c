"""The environment of the check on a GPU: when it is refused, and what is installed into it and what is not."""

import importlib
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "tools" / "gpu_check.py"
FOUND: dict[str, Any] = {
    "python": "3.12.3",
    "torch": "2.11.0+cu130",
    "cuda": "13.0",
    "gpu": "a GPU",
    "gpu_memory_gb": 80.0,
    "libraries": {"torch": "2.11.0", "torchvision": "0.26.0", "triton": "3.6.0", "numpy": "2.5.2", "Pillow": "12.0"},
    "environment": False,
    "folders": [],
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    return importlib.import_module("gpu_environment")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The interpreter of an environment without any library."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return tmp_path / "bare" / "bin" / "python"


def library(python: Path, name: str, version: str, code: str) -> None:
    """Put a library of one file into an environment."""
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip())
    (folder / f"{name}.py").write_text(code)
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def refused(python: str | Path, build: Path, *words: str | Path) -> str:
    """What the script says when it refuses; it must have made nothing."""
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [python, SCRIPT, "--build", build, "--out", build / "out", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert not build.exists()
    return done.stderr


def test_without_a_gpu_it_refuses_in_one_sentence(tmp_path: Path) -> None:
    said = refused(sys.executable, tmp_path / "build")
    assert said.startswith("gpu-check needs a GPU that torch can use, and torch ")
    assert said.endswith(" finds none\n")
    assert said.count("\n") == 1


def test_without_torch_it_refuses_in_one_sentence(tmp_path: Path, bare: Path) -> None:
    said = refused(bare, tmp_path / "build")
    assert said.startswith("gpu-check needs torch 2.11 or newer in its interpreter, and this Python ")
    assert said.endswith(" has none\n")
    assert said.count("\n") == 1


def test_a_torch_that_does_not_load_is_refused_in_one_sentence(tmp_path: Path, bare: Path) -> None:
    library(bare, "torch", "2.11.0", "raise OSError('libcudart.so.13: cannot open shared object file')")
    said = refused(bare, tmp_path / "build")
    assert said.startswith("gpu-check needs an interpreter whose torch loads, and it ended with: OSError: libcudart")
    assert said.count("\n") == 1


def test_a_folder_without_wheels_is_refused(tmp_path: Path) -> None:
    said = refused(sys.executable, tmp_path / "build", "--wheels", tmp_path)
    assert said == f"--wheels must be a folder that holds wheels, got {tmp_path}\n"


def test_the_target_of_make_refuses_like_the_script(bare: Path) -> None:
    make = ["make", "--no-print-directory", "-C", str(REPOSITORY), "gpu-check"]
    done = subprocess.run([*make, f"PYTHON={bare}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-check needs torch 2.11 or newer in its interpreter")
    done = subprocess.run([*make, "PYTHON=no-such-python"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("PYTHON must be a command or a path of one, got no-such-python\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"python": "3.10.9"}, "gpu-check needs Python 3.11 or newer, got 3.10.9"),
        ({"torch": "2.9.1"}, "gpu-check needs torch 2.11 or newer in its interpreter, got 2.9.1"),
        ({"torch": "2.10.0+cu128"}, "gpu-check needs torch 2.11 or newer in its interpreter, got 2.10.0+cu128"),
        (
            {"libraries": {"torch": "2.11.0"}},
            "gpu-check needs torch and torchvision installed in its interpreter, and torchvision is not",
        ),
        ({"gpu": None}, "gpu-check needs a GPU that torch can use, and torch 2.11.0+cu130 finds none"),
    ],
)
def test_what_is_refused(environment: ModuleType, change: dict[str, Any], sentence: str) -> None:
    assert environment.refusal(FOUND | change) == sentence


@pytest.mark.parametrize(
    "torch", ["2.11.0", "2.11.0a0+5228986c39.nv26.01", "2.15.0+cu132", "2.12.0.dev20260101", "3.0"]
)
def test_newer_torch_will_do(environment: ModuleType, torch: str) -> None:
    assert environment.refusal(FOUND | {"torch": torch}) is None


def test_torch_is_pinned_what_is_there_stays_and_what_is_missing_is_the_tested_one(environment: ModuleType) -> None:
    tested = "lightning==2.6.6\nnumpy==2.4.6\nopen-clip-torch==3.3.0\npillow==13.0.0\ntorch==2.15.0\n"
    assert environment.constraints(tested, FOUND["libraries"] | {"Open_CLIP.torch": "3.2"}).splitlines() == [
        "torch==2.11.0",
        "torchvision==0.26.0",
        "triton==3.6.0",
        "lightning==2.6.6",
    ]


def test_the_repository_s_own_constraints_never_name_torch_twice(environment: ModuleType) -> None:
    text = environment.constraints((REPOSITORY / "constraints.txt").read_text(), FOUND["libraries"])
    names = [Requirement(line).name for line in text.splitlines()]
    assert len(names) == len(set(names))
    assert "torch==2.11.0\n" in text
    assert "numpy" not in names
    assert "monai" in names


def test_wheels_of_a_folder_are_the_only_source(environment: ModuleType, tmp_path: Path) -> None:
    python, constraint = Path("python"), Path("constraints")
    anywhere, folder = (environment.installation(python, constraint, wheels) for wheels in (None, tmp_path))
    assert "--no-index" not in anywhere
    assert folder[folder.index("--no-index") :][:3] == ["--no-index", "--find-links", str(tmp_path)]
    installed = [folder[i + 1] for i, word in enumerate(folder) if word == "--editable"]
    assert sorted(installed) == sorted(
        f"./{path.parent.relative_to(REPOSITORY).as_posix()}"
        for path in [REPOSITORY / "shared" / "pyproject.toml", *REPOSITORY.glob("packages/*/pyproject.toml")]
    )


def test_an_environment_on_top_of_another_imports_what_that_has_after_its_own(
    environment: ModuleType, bare: Path, tmp_path: Path
) -> None:
    library(bare, "below", "1.0", "where = 'below'")
    library(bare, "both", "1.0", "where = 'below'")
    venv.create(tmp_path / "top", with_pip=False, symlinks=True)
    python = tmp_path / "top" / "bin" / "python"
    assert "below" not in environment.probe(python)["libraries"]
    library(python, "both", "2.0", "where = 'top'")
    found = environment.probe(bare)
    assert found["environment"]
    assert found["libraries"] == {"below": "1.0", "both": "1.0"}
    environment.inherit(tmp_path / "top", found["folders"])
    assert environment.probe(python)["libraries"] == {"below": "1.0", "both": "2.0"}
    done = subprocess.run([python, "-c", "import below, both; print(below.where, both.where)"], capture_output=True)
    assert done.stdout == b"below top\n"


class Commands:
    """A runner that makes real environments, installs nothing, and remembers; some commands fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str], log: Path) -> int:
        self.ran.append(log.stem)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"line of {log.stem}\n")
        if log.stem == "venv":
            venv.create(command[-1], with_pip=False, symlinks=True)
        return 3 if log.stem in self.failing else 0


def test_the_environment_is_made_installed_and_looked_at(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = environment.probe
    monkeypatch.setattr(environment, "probe", lambda python: real(python) | {"torch": "2.11.0+cu130", "gpu": "a GPU"})
    run, folder = Commands(), tmp_path / "build" / "gpu-venv"
    python = environment.make_environment(folder, sys.executable, FOUND, None, run)
    assert python == folder / "bin" / "python"
    assert run.ran == ["venv", "install", "imports", "libraries"]
    assert (tmp_path / "build" / "gpu-constraints.txt").read_text().startswith("torch==2.11.0\ntorchvision==0.26.0\n")


def test_an_environment_with_another_torch_is_refused(environment: ModuleType, tmp_path: Path) -> None:
    run = Commands()
    with pytest.raises(environment.EnvironmentRefused, match=r"must keep torch 2\.11\.0\+cu130, and imports None"):
        environment.make_environment(tmp_path / "gpu-venv", sys.executable, FOUND, None, run)
    assert run.ran == ["venv", "install"]
    assert environment.changed(FOUND, FOUND | {"gpu": None}) == (
        "torch 2.11.0+cu130 must see the GPU in the environment too, and finds none"
    )
    assert environment.changed(FOUND, FOUND) is None


def test_a_failed_installation_is_told_with_the_end_of_its_log(environment: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        environment.EnvironmentRefused, match=r"(?s)^install ended with 3, see .*:\n    line of install$"
    ):
        environment.make_environment(tmp_path / "gpu-venv", sys.executable, FOUND, None, Commands("install"))


def test_the_machine_is_told_with_the_libraries_that_are_constrained(environment: ModuleType) -> None:
    told = environment.described(FOUND | {"libraries": FOUND["libraries"] | {"something-else": "1"}}, "580.1")
    assert told == {
        "gpu": "a GPU",
        "gpu_memory_gb": 80.0,
        "cuda": "13.0",
        "torch": "2.11.0+cu130",
        "python": "3.12.3",
        "driver": "580.1",
        "libraries": {"numpy": "2.5.2", "pillow": "12.0", "torch": "2.11.0", "torchvision": "0.26.0"},
    }
