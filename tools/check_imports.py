"""Import every third-party library that the installed medley packages declare; the last step of `make setup`.

Exit 1 with one sentence that names the first library that is missing or does not load.
"""

import sys
from collections import defaultdict
from importlib import import_module
from importlib.metadata import distribution, distributions, packages_distributions, version

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

SHARED = "medley-shared"


def active(name: str, extras: set[str]) -> list[Requirement]:
    """The requirements of distribution ``name`` that hold on this machine with ``extras``."""
    requirements = [Requirement(line) for line in distribution(name).requires or []]
    chosen = [{"extra": extra} for extra in ("", *extras)]
    return [r for r in requirements if r.marker is None or any(r.marker.evaluate(extra) for extra in chosen)]


def declared_libraries() -> set[NormalizedName]:
    """What ``medley-shared`` and the packages that require it need, with the extras that they ask for."""
    packages = [d.name for d in distributions() if any(line.startswith(SHARED) for line in d.requires or [])]
    requirements = [requirement for name in packages for requirement in active(name, set())]
    extras = {extra for requirement in requirements if requirement.name == SHARED for extra in requirement.extras}
    requirements += active(SHARED, extras)
    return {canonicalize_name(requirement.name) for requirement in requirements} - {SHARED}


def import_names() -> dict[NormalizedName, list[str]]:
    """The top-level import names of each installed distribution."""
    names: dict[NormalizedName, list[str]] = defaultdict(list)
    for name, owners in packages_distributions().items():
        for owner in set(owners):
            names[canonicalize_name(owner)].append(name)
    return names


def complaint(library: str, error: Exception) -> str:
    """One sentence: what does not load, why, and what to do."""
    if "torchvision::nms" in str(error):
        return (
            f"torchvision {version('torchvision')} does not load beside torch {version('torch')} (a CPU-only torch, or "
            "one of another release, needs the torchvision built for it): remove .venv and run `make setup`, which "
            "installs the matching pair."
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{library} does not load ({reason}): remove .venv and run `make setup` again."


def main() -> None:
    """Import the libraries one by one and say how many there are, or which one fails."""
    libraries, names = declared_libraries(), import_names()
    for library in sorted(libraries):
        own = library.replace("-", "_")
        try:
            distribution(library)
            for name in [own] if own in names[library] else names[library]:
                import_module(name)
        except Exception as error:  # a broken binary raises anything: RuntimeError, OSError, AttributeError …
            sys.exit(complaint(library, error))

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{len(libraries)} libraries load; torch {torch.__version__} on {device}")


if __name__ == "__main__":
    main()
