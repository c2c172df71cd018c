"""Weights and checkpoints in and out: checked, whole or not at all, never unpickled."""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import UsageError

FORMAT = 1
"""Version of what the packages add to a Lightning checkpoint."""


@dataclass(frozen=True)
class KeyReport:
    """How the tensors of a file compare with those that a model wants."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether both sides hold the same names with the same shapes."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors match"]
        for count, word, names in (
            (len(self.missing), "missing", self.missing),
            (len(self.unexpected), "unexpected", self.unexpected),
            (len(self.misshapen), "of another shape", self.misshapen),
        ):
            if count:
                parts.append(f"{count} {word} ({names[0]}{', …' if count > 1 else ''})")
        return ", ".join(parts)


def compare_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> KeyReport:
    """Compare names and shapes of two sets of tensors."""
    common = [name for name in wanted if name in found]
    misshapen = tuple(name for name in common if found[name].shape != wanted[name].shape)
    return KeyReport(
        matched=tuple(name for name in common if name not in misshapen),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        misshapen=misshapen,
    )


def require_same_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, what: str) -> KeyReport:
    """Compare, and refuse anything but a complete match.

    Raises:
        UsageError: Names or shapes differ.
    """
    report = compare_tensors(found, wanted)
    if not report.complete:
        raise UsageError(f"{what} belongs to another model: {report}")
    return report


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors: under another name first, then renamed, so the file is whole or absent."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.touch()  # what is wrong with the place is an OSError here, and an error of safetensors' own below
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
    temporary.replace(path)


def load_content(path: Path, option: str) -> Any:
    """What a ``.safetensors`` file or a checkpoint holds: tensors and plain values, in dicts and lists.

    Args:
        path: The file.
        option: Name of the option that gave the path, for the error message.

    Raises:
        UsageError: No such file, or it is damaged or holds something else than tensors and plain values.
    """
    if not path.is_file():
        raise UsageError(f"{option} must be an existing file, got {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        told = "" if isinstance(error, KeyError) else f" ({first_line(error)})"  # the unpickler's, a bare number
        raise UsageError(f"{option} is damaged or no weight file: {path}{told}") from error
    except Exception as error:  # the unpickler has an error class of its own, which pickle alone would name
        damaged = "" if zipfile.is_zipfile(path) else "is no weight file, or "
        raise UsageError(f"{option} {damaged}holds more than tensors and plain values: {path}") from error


def load_tensors(path: Path, option: str) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or the ``state_dict`` (or ``model``) of a checkpoint.

    Args:
        path: The file.
        option: Name of the option that gave the path, for the error message.

    Raises:
        UsageError: No such file, or it is damaged or holds something else than tensors.
    """
    content = load_content(path, option)
    # Lightning says state_dict, DeiT and many other releases say model.
    tensors = content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UsageError(f"{option} must hold named tensors, got {path}")
    return tensors


def first_line(error: BaseException) -> str:
    """First line of an error message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_whole_checkpoint(path: Path) -> bool:
    """Whether a checkpoint was written to its end and no byte has changed: every checksum of the archive holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # of headers that were changed, of decompression, of the file
        return False


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged ``.ckpt`` below ``folder``, or ``None``."""
    files = sorted(folder.glob("**/*.ckpt"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return next((path for path in files if is_whole_checkpoint(path)), None)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and that are read without unpickling.

    Written beside their place, flushed to the disk, then renamed; Lightning's own writer may cross file systems.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the checkpoint at ``path``; only tensors and plain values are accepted.

        Raises:
            UsageError: No such file, damaged, or holding anything else.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"ckpt_path must be an existing file, got {path}")
        if not is_whole_checkpoint(path):
            raise UsageError(f"ckpt_path is damaged or no checkpoint: {path}")
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # the unpickler's own error class
            raise UsageError(f"ckpt_path holds more than tensors and plain values: {path}") from error
