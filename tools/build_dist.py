"""Build the wheel and the source archive of shared and of every package: `python tools/build_dist.py FOLDER`.

Exit 1 when a wheel requires something by path: such a wheel installs on the machine that built it and nowhere else.
"""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(folder: Path) -> None:
    """Build into ``folder`` and check what the wheels require."""
    by_name = os.environ | {"SHARED_BY_NAME": "1"}  # medley-shared by its version, not by its folder in this clone
    for project in [ROOT / "shared", *sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))]:
        # Without isolation the installed hatchling builds, and no network is needed.
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
        subprocess.run(build, env=by_name, check=True)
    for wheel in sorted(folder.glob("*.whl")):
        for distribution in distributions(path=[str(wheel)]):
            if paths := [line for line in distribution.requires or [] if "file:" in line]:
                sys.exit(f"{wheel.name} requires {paths[0]!r}, a path that exists on this machine only.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
