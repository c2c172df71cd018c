"""What is known of each video file (frames, rate, patient), kept on disk so that a folder is opened once."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from usssl.cache_folder import write_whole
from usssl.sources.clips import Clip, FileReader

_FORMAT = 2  # 1 kept the PatientID of DICOM files


class ProbeCache:
    """Clips by file, valid while the file keeps its size and time of change.

    Args:
        folder: Where the index lies; one JSON file per source folder.
        root: The source folder.
        layout: How it is read; part of the name.
    """

    def __init__(self, folder: Path, root: Path, layout: str) -> None:
        key = sha256(f"{_FORMAT} {layout} {root.resolve()}".encode()).hexdigest()[:20]
        self.file = folder / "frame_index" / f"{key}.json"
        self._known: dict[str, Any] = {}
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            self._known = stored if isinstance(stored, dict) else {}
        except (OSError, ValueError):
            pass  # none yet, or damaged: it is made anew
        self._changed = False

    def clips(self, path: Path, reader: FileReader) -> list[Clip]:
        """The clips of one file, from the index if it is still true."""
        if path.is_dir():  # a folder's time of change says nothing of the pictures in it, and listing it is cheap
            return reader.probe(path)
        state = path.stat()
        name, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
        entry = self._known.get(name)
        if entry is None or entry["stamp"] != stamp:
            found = reader.probe(path)
            facts = ("video_id", "frames", "key", "fps", "patient", "machine")
            entry = {"stamp": stamp, "clips": [{fact: getattr(clip, fact) for fact in facts} for clip in found]}
            self._known[name] = entry
            self._changed = True
        return [Clip(path=str(path), reader=reader, **facts) for facts in entry["clips"]]

    def save(self) -> None:
        """Write what is new."""
        if self._changed:
            text = json.dumps(self._known, indent=1)
            write_whole(self.file, lambda path: _write_text(path, text))
            self._changed = False


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
