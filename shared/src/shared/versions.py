"""Versions of what decides about numbers."""

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "medley-shared")


def versions(package: str) -> dict[str, str]:
    """Versions of Python, the package and the libraries that decide about numbers."""
    found = {"python": platform.python_version()}
    for name in (package, *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
