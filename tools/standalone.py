"""Install every package alone, as a newcomer would, and run its command from an empty folder.

Twice in one clean environment per package: from the folder in the clone, then from the wheels in dist/. Each time the
other packages and their heavy libraries must be absent, and an uninstall must leave none of our files behind. The time
of the clone is that from an empty environment, the time of the wheels that with the libraries in place.

Usage: python tools/standalone.py [--uv] [PACKAGE ...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedsam", "usssl", "fedseca", "finelip")
TRAINS = {"usssl": ("pretrain", "--model.lr_schedule.warmup_epochs", "0")}
"""The verb that trains, where it is not ``fit``, and what a single step needs."""
HEAVY = {
    **{"flwr": "", "ray": "", "byzfl": ""},
    **{"monai": "fedsam", "segment_anything": "fedsam"},
    **{"av": "usssl", "lightly": "usssl", "pydicom": "usssl", "sklearn": "usssl"},
    **{"open_clip": "finelip", "transformers": "finelip"},
}
"""What takes long to fetch, and the package that needs it; extras alone bring what belongs to none."""

# The environment of a newcomer: no folder of local wheels (its CPU-only torch would break the registry's torchvision),
# no other Python's packages, and the folder requirement that the build hook writes by default.
NEWCOMER = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PIP_FIND_LINKS", "PYTHONPATH", "VIRTUAL_ENV", "SHARED_BY_NAME"}
}


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Run ``command`` in ``folder`` and return what it printed; end everything if it fails."""
    done = subprocess.run(command, cwd=folder, env=NEWCOMER, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\n`{' '.join(map(str, command))}` ended with {done.returncode}.")
    return done.stdout


def megabytes(*paths: Path) -> float:
    """Disk space below ``paths``."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.lstat().st_size for file in files) / 1e6


class CleanEnvironment:
    """A virtual environment in ``folder`` that holds one of our packages, and what is checked of it."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package, self.folder = package, folder
        run(sys.executable, "-m", "venv", folder)
        self.python = folder / "bin/python"
        script = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.libraries = Path(run(self.python, "-c", script).strip())

    def pip(self, *arguments: str | Path) -> None:
        """Run the environment's own pip."""
        run(self.python, "-m", "pip", *arguments)

    def fill_with_uv(self) -> None:
        """Install what the package needs, but nothing of ours: pip then finds its third parties in place."""
        project = ROOT / "packages" / self.package
        uv = (sys.executable, "-m", "uv", "pip")
        run(*uv, "install", "--python", self.python, "--no-sources", "--constraint", "constraints.txt", project)
        self.uninstall()

    def our_files(self) -> list[Path]:
        """Everything in the environment that belongs to medley."""
        names = (self.package, "shared", f"{self.package}-*.dist-info", "medley_shared-*.dist-info")
        commands = self.folder / "bin"
        return [*(path for name in names for path in self.libraries.glob(name)), *commands.glob(self.package)]

    def uninstall(self) -> None:
        """Uninstall the package and shared; nothing of them may stay."""
        self.pip("uninstall", "--yes", self.package, "medley-shared")
        if left := self.our_files():
            sys.exit(f"Uninstalling {self.package} leaves {left[0]} behind.")

    def check(self) -> None:
        """Run the command from an empty folder and look for the other packages."""
        command = self.folder / "bin" / self.package
        with tempfile.TemporaryDirectory() as empty:
            for arguments in (
                ["--help"],
                ["--version"],
                [*TRAINS.get(self.package, ("fit",)), "--trainer.fast_dev_run", "1"],
            ):
                run(command, *arguments, folder=Path(empty))
            script = f"from importlib.util import find_spec; print(*filter(find_spec, {(*PACKAGES, *HEAVY)}))"
            importable = run(self.python, "-c", script, folder=Path(empty)).split()
        wanted = [self.package, *(library for library, owner in HEAVY.items() if owner == self.package)]
        if importable != wanted:
            sys.exit(
                f"With {self.package} installed alone, {', '.join(wanted)} should be importable, and these are: "
                f"{', '.join(importable)}."
            )


def standalone(package: str, fill_with_uv: bool) -> None:
    """Install, run and uninstall ``package`` from the clone and from its wheel; print one table row for each."""
    wheels = [next((ROOT / "dist").glob(f"{name}-*.whl")) for name in (package, "medley_shared")]
    sources: dict[str, list[str | Path]] = {
        "clone": ["--constraint", "constraints.txt", f"./packages/{package}"],
        "wheels": ["--no-index", *wheels],  # the third-party libraries are there: nothing else may be needed
    }
    with tempfile.TemporaryDirectory() as folder:
        environment = CleanEnvironment(package, Path(folder))
        start = time.perf_counter()
        if fill_with_uv:
            environment.fill_with_uv()
        for source, arguments in sources.items():
            environment.pip("install", *arguments)
            seconds = time.perf_counter() - start
            ours, everything = megabytes(*environment.our_files()), megabytes(environment.folder)
            environment.check()
            environment.uninstall()
            print(f"{package:10} {source:8} {seconds:10.1f} {ours:10.2f} {everything:15.0f}", flush=True)
            start = time.perf_counter()


def main() -> None:
    """Check the packages named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help="default: every package of the clone")
    parser.add_argument("--uv", action="store_true", help="let uv fetch the third-party libraries, which is faster")
    options = parser.parse_args()
    print(f"{'package':10} {'from':8} {'install s':>10} {'ours MB':>10} {'environment MB':>15}")
    for package in options.packages or sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")):
        standalone(package, options.uv)


if __name__ == "__main__":
    main()
