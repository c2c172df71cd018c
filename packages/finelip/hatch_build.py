"""Require the sibling ``shared`` folder when built inside a clone, the published package otherwise."""

import os
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SharedFromClone(MetadataHookInterface):
    """Add ``medley-shared`` to the dependencies: by folder inside a clone, by version elsewhere.

    ``SHARED_BY_NAME=1`` asks for the version even inside a clone (wheels to publish, editable installs).
    """

    def update(self, metadata: dict) -> None:
        """Write ``metadata["dependencies"]``."""
        folder = Path(self.root).parents[1] / "shared"
        in_clone = (folder / "pyproject.toml").is_file() and not os.environ.get("SHARED_BY_NAME")
        extras = ",".join(self.config.get("shared-extras", []))
        name = f"medley-shared[{extras}]" if extras else "medley-shared"
        source = f" @ {folder.as_uri()}" if in_clone else f"=={metadata['version']}"
        metadata["dependencies"] = [f"{name}{source}", *self.config["dependencies"]]
