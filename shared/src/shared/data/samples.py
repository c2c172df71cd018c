"""Arrays that travel inside a package's wheel."""

from hashlib import sha256 as _sha256
from importlib.resources import files
from io import BytesIO

import numpy as np

from shared.errors import UsageError


def embedded(package: str, file: str, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read an ``.npz`` archive from a package's data, without pickle.

    Args:
        package: Import name of the package, e.g. ``"fedseca"``.
        file: Path below it, e.g. ``"samples/fashion_mnist_mini.npz"``.
        sha256: The checksum that the file must have.

    Returns:
        The arrays by key.

    Raises:
        UsageError: The file is missing or differs from the one that was published.
    """
    try:
        content = files(package).joinpath(*file.split("/")).read_bytes()
    except OSError as error:
        raise UsageError(f"package {package} must hold {file}, but it is missing: install the package again") from error
    found = _sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise UsageError(
            f"package {package}: {file} must have SHA-256 {sha256}, got {found}: install the package again"
        )
    with np.load(BytesIO(content), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}
