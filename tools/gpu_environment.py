"""A virtual environment on top of an interpreter that has torch for its GPU: what is missing is installed, no more.

The installer is pip: uv does not see the libraries below an environment and would bring a second torch.
"""

from __future__ import annotations  # an interpreter that is too old must get as far as its refusal

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedsam", "usssl", "fedseca", "finelip")
PYTHON_FLOOR, TORCH_FLOOR = (3, 11), (2, 11)
PINNED = ("torch", "torchvision", "torchaudio", "triton", "pytorch-triton")
"""Built for one another and for the driver."""
TOOLS = ("hypothesis", "peft", "pytest", "scikit-learn")
"""What the tests and benchmarks on a GPU need beside the packages."""
LOG_LINES = 15

PROBE = """
import importlib.metadata, json, platform, sys
try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    torch = None
gpu = torch is not None and torch.cuda.is_available()
print(json.dumps({
    "python": platform.python_version(),
    "torch": torch and torch.__version__,
    "cuda": torch and torch.version.cuda,
    "gpu": torch.cuda.get_device_name() if gpu else None,
    "gpu_memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if gpu else None,
    "libraries": {d.name: d.version for d in reversed(list(importlib.metadata.distributions())) if d.name},
    "environment": sys.prefix != sys.base_prefix,
    "folders": [p for p in sys.path if p.rstrip("/").endswith(("site-packages", "dist-packages"))],
}))
"""
"""Tells as JSON what an interpreter has; of a library that is there twice, the one that is imported."""

Runner = Callable[[Sequence[str], Path], int]
"""Runs a command in the repository, writes what it prints to a file and gives its exit status."""


class EnvironmentRefused(RuntimeError):
    """The environment cannot be made or used, told in one sentence."""


def to_log(command: Sequence[str], log: Path) -> int:
    """The runner that really runs. The packages then require ``medley-shared`` by name, see ``hatch_build.py``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.run(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "SHARED_BY_NAME": "1"}
        ).returncode


def tail(log: Path) -> str:
    """The last lines of a log, indented; empty if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "".join(f"    {line}\n" for line in lines[-LOG_LINES:])


def probe(python: str | Path) -> dict[str, Any]:
    """What an interpreter has.

    Raises:
        EnvironmentRefused: It does not answer.
    """
    done = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentRefused(f"gpu-check needs an interpreter whose torch loads, and it ended with: {reason}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    Example:
        >>> release("2.11.0a0+cu130")
        (2, 11)
    """
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def refusal(found: Mapping[str, Any]) -> str | None:
    """Why a machine will not do, or ``None``; ``found`` is what :func:`probe` gives."""
    python, torch = (".".join(map(str, floor)) for floor in (PYTHON_FLOOR, TORCH_FLOOR))
    if release(found["python"]) < PYTHON_FLOOR:
        return f"gpu-check needs Python {python} or newer, got {found['python']}"
    if found["torch"] is None:
        return f"gpu-check needs torch {torch} or newer in its interpreter, and this Python {found['python']} has none"
    if release(found["torch"]) < TORCH_FLOOR:
        return f"gpu-check needs torch {torch} or newer in its interpreter, got {found['torch']}"
    missing = [name for name in ("torch", "torchvision") if name not in found["libraries"]]
    if missing:
        return f"gpu-check needs torch and torchvision installed in its interpreter, and {' and '.join(missing)} is not"
    if found["gpu"] is None:
        return f"gpu-check needs a GPU that torch can use, and torch {found['torch']} finds none"
    return None


def canonical(name: str) -> str:
    """A distribution's name as comparisons need it.

    Example:
        >>> canonical("Open_CLIP.torch")
        'open-clip-torch'
    """
    return name.strip().lower().replace("_", "-").replace(".", "-")


def constraints(tested: str, libraries: Mapping[str, str]) -> str:
    """Constraints for the installer: torch and its kin as they are, and the tested versions of what is missing.

    Other libraries that are there get no line: pip keeps them where the packages accept them.

    Args:
        tested: The repository's ``constraints.txt``.
        libraries: Name and version of what is there.
    """
    there = {canonical(name): version for name, version in libraries.items()}
    pins = [f"{name}=={there[name]}" for name in PINNED if name in there]
    missing = [line for line in tested.splitlines() if line and canonical(line.split("==")[0]) not in there]
    return "\n".join([*pins, *missing]) + "\n"


def inherit(environment: Path, folders: Sequence[str]) -> None:
    """Let an environment import from ``folders`` too, after its own, where it does not yet."""
    reached = probe(environment / "bin" / "python")["folders"]
    own = next(folder for folder in map(Path, reached) if environment in folder.parents)
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders if folder not in reached]
    (own / "inherited.pth").write_text("".join(lines), encoding="utf-8")


def members() -> list[str]:
    """Folders of what is installed."""
    return ["./shared", *(f"./packages/{name}" for name in PACKAGES)]


def installation(python: Path, constraint: Path, wheels: Path | None) -> list[str]:
    """The command that installs the packages, editable, and the tools; ``wheels``: from this folder alone."""
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    editable = [word for member in members() for word in ("--editable", member)]
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraint)]
    return [*pip, *source, *editable, *TOOLS]


def make_environment(folder: Path, base: str, found: Mapping[str, Any], wheels: Path | None, run: Runner) -> Path:
    """Make the environment anew, install, and check it; gives its interpreter.

    Args:
        folder: Where it shall be; logs lie beside it.
        base: The interpreter below.
        found: What that interpreter has.
        wheels: The only place to install from; ``None``: as pip is set up.
        run: Runs the commands.

    Raises:
        EnvironmentRefused: A command failed, or the environment has another torch, no GPU, or lacks a library.
    """
    python, logs = folder / "bin" / "python", folder.parent / "gpu-logs"
    constraint = folder.parent / "gpu-constraints.txt"

    def must(name: str, command: Sequence[str]) -> None:
        if status := run(command, logs / f"{name}.log"):
            raise EnvironmentRefused(
                f"{name} ended with {status}, see {logs / f'{name}.log'}:\n{tail(logs / f'{name}.log')}".rstrip()
            )

    # On top of another environment the flag would reach past it, to the base that it hides.
    reach = [] if found["environment"] else ["--system-site-packages"]
    must("venv", [base, "-m", "venv", "--clear", *reach, str(folder)])
    inherit(folder, found["folders"])
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    constraint.write_text(constraints(tested, found["libraries"]), encoding="utf-8")
    must("install", installation(python, constraint, wheels))
    if wrong := changed(found, probe(python)):
        raise EnvironmentRefused(wrong)
    must("imports", [str(python), "-c", f"import shared, {', '.join(PACKAGES)}"])
    must("libraries", [str(python), str(ROOT / "tools" / "check_imports.py")])
    return python


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """What an installation did to torch that it must not, or ``None``."""
    if after["torch"] != before["torch"]:
        return f"the environment must keep torch {before['torch']}, and imports {after['torch']}"
    if after["gpu"] is None:
        return f"torch {after['torch']} must see the GPU in the environment too, and finds none"
    return None


def driver() -> str | None:
    """The version of NVIDIA's driver, where one tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def described(found: Mapping[str, Any], driver_version: str | None) -> dict[str, Any]:
    """The machine as a record tells it: GPU, driver, CUDA, Python, and what is there of ``constraints.txt``."""
    tested = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()]
    there = {canonical(name): version for name, version in found["libraries"].items()}
    told = {name: found[name] for name in ("gpu", "gpu_memory_gb", "cuda", "torch", "python")}
    return told | {"driver": driver_version, "libraries": {name: there[name] for name in tested if name in there}}
