"""Decoded volumes on disk: uncompressed arrays that loader workers map into memory, with what is known beside them."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from fedsam.volumes import Case, Volume
from shared.errors import UsageError

_FORMAT = 1  # of the files below; another number makes every entry anew


def user_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/fedsam/volumes``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedsam" / "volumes"


class ArrayCache:
    """Volumes of cases, decoded once.

    A case's files are ``KEY.image.npy``, ``KEY.label.npy`` and ``KEY.json``, where KEY follows from the case's
    fingerprint (source path, size, time of change, preprocessing). Each is written under a temporary name and renamed,
    the JSON last, so that whoever finds the JSON finds the whole; two processes that make the same entry write the
    same bytes, and either may win.

    Args:
        folder: Where the files go; ``None`` keeps the arrays in memory instead, in each process that asks for them.
        dtype: How image values are stored. ``float16`` halves the space and keeps three decimal digits.
    """

    def __init__(self, folder: Path | None, dtype: Literal["float32", "float16"] = "float32") -> None:
        if dtype not in ("float32", "float16"):
            raise UsageError(f"data.cache_dtype must be float32 or float16, got {dtype!r}")
        self.folder = None if folder is None else folder.expanduser()
        self.dtype = np.dtype(dtype)
        self._open: dict[str, Volume] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry all of its bytes; a worker that is spawned maps the files again.
        return self.__dict__ | ({} if self.folder is None else {"_open": {}})

    def key(self, case: Case) -> str:
        """Name of the case's files: readable at the front, unique at the end."""
        facts = {"format": _FORMAT, "dtype": self.dtype.name, "site": case.site, "case": case.case}
        text = json.dumps(facts | {"source": case.fingerprint()}, sort_keys=True)
        readable = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{case.site}_{case.case}")[-60:]
        return f"{readable}_{sha256(text.encode()).hexdigest()[:20]}"

    def facts(self, case: Case) -> dict[str, Any]:
        """What is known of the case without its voxels: ``shape``, ``spacing``, ``labels`` (voxels by class) and more.

        The entry is made if it is not there yet.

        Raises:
            UsageError: The case cannot be read, or the folder cannot be written.
        """
        key = self.key(case)
        if key not in self._facts:
            if self.folder is None:
                volume = case.read()
                self._open[key] = _cast(volume, self.dtype)
                self._facts[key] = _facts(volume)
            else:
                self._facts[key] = self._stored_facts(key) or self._store(key, case)
        return self._facts[key]

    def volume(self, case: Case) -> Volume:
        """The case, its arrays mapped read-only; made if it is not there yet."""
        key = self.key(case)
        if key not in self._open:
            facts = self.facts(case)
            if self.folder is not None:
                self._open[key] = self._mapped(self.folder, key, facts)
        return self._open[key]

    def _stored_facts(self, key: str) -> dict[str, Any] | None:
        assert self.folder is not None
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        with _readable(path):
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            parts = ("image", "label") if facts["labelled"] else ("image",)
        return facts if all((self.folder / f"{key}.{part}.npy").is_file() for part in parts) else None

    def _store(self, key: str, case: Case) -> dict[str, Any]:
        assert self.folder is not None
        volume = case.read()
        facts = _facts(volume)
        stored = _cast(volume, self.dtype)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for part, array in (("image", stored.image), ("label", stored.label)):
                if array is not None:
                    _write(self.folder / f"{key}.{part}.npy", partial(_save, array))
            text = json.dumps(facts, indent=1)
            _write(self.folder / f"{key}.json", partial(_save_text, text))
        except OSError as error:
            raise UsageError(
                f"data.cache_dir must be a folder with room to write, got {self.folder} ({error})"
            ) from error
        return facts

    def _mapped(self, folder: Path, key: str, facts: dict[str, Any]) -> Volume:
        def array(part: str) -> np.ndarray:
            path = folder / f"{key}.{part}.npy"
            with _readable(path):
                mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapped

        image, label = array("image"), array("label") if facts["labelled"] else None
        with _readable(folder / f"{key}.json"):
            return Volume(
                image=image,
                label=label,
                spacing=np.array(facts["spacing"]),
                site=facts["site"],
                case=facts["case"],
                provenance=facts["provenance"],
                affine=None if facts["affine"] is None else np.array(facts["affine"]),
                native_affine=None if facts["native_affine"] is None else np.array(facts["native_affine"]),
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell that a file is damaged, in whichever way it fails to be read."""
    try:
        yield
    except Exception as error:  # headers and JSON that was cut fail in many ways
        raise UsageError(f"data.cache_dir must hold readable files, {path} is damaged: delete it") from error


def _cast(volume: Volume, dtype: np.dtype) -> Volume:
    image = np.ascontiguousarray(volume.image, dtype=dtype)
    label = None if volume.label is None else np.ascontiguousarray(volume.label, dtype=np.uint8)
    return Volume(**{**volume.__dict__, "image": image, "label": label})


def _facts(volume: Volume) -> dict[str, Any]:
    affine, native = (None if a is None else np.asarray(a).tolist() for a in (volume.affine, volume.native_affine))
    counts = [] if volume.label is None else np.bincount(volume.label.ravel()).tolist()
    return {
        "site": volume.site,
        "case": volume.case,
        "provenance": volume.provenance,
        "shape": list(volume.image.shape),
        "spacing": np.asarray(volume.spacing).tolist(),
        "affine": affine,
        "native_affine": native,
        "labelled": volume.label is not None,
        "labels": counts,
    }


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _save_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write under a name of this call's own, then rename; nothing is left behind if it fails."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
