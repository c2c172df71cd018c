"""Places to write, found wrong before the work that is written there."""

from pathlib import Path

from shared.errors import UsageError


def output_file(out: str | Path, suffix: str = "", option: str = "--out") -> Path:
    """The path of a file to write; the folder around it is made.

    Args:
        out: What the user gave.
        suffix: What it must end in, such as ``.npz``.
        option: Name of the option, for the error message.

    Raises:
        UsageError: It has another suffix, is a folder, or the folder around it cannot be made.
    """
    path = Path(out).expanduser()
    if suffix and path.suffix != suffix:
        raise UsageError(f"{option} must end in {suffix}, got {out}")
    if path.is_dir():
        raise UsageError(f"{option} must be a file to write, got the folder {out}")
    output_folder(path.parent, option)
    return path


def output_folder(out: str | Path, option: str = "--out") -> Path:
    """The path of a folder to write, which is made.

    Args:
        out: What the user gave.
        option: Name of the option, for the error message.

    Raises:
        UsageError: It is a file, below one, or in a folder that is not to be written.
    """
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} must be in a folder that can be written, got {out} ({error.strerror})") from error
    return folder
