"""Where what is slow to make is kept between runs, and how it gets there whole."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from shared.errors import UsageError


def user_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/usssl``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usssl"


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a name of this call's own, then rename; two processes may make the same file, and either may win.

    Raises:
        UsageError: The folder cannot be written.
    """
    temporary = path.with_name(f"{path.stem}.{uuid4().hex}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"the cache must be a folder with room to write, got {path.parent} ({error.strerror}); "
            "XDG_CACHE_HOME and data.source.cache_dir name another one"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
