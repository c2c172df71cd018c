"""Urban1k: 1000 street scenes with long captions (Zhang et al., Long-CLIP, ECCV 2024); for testing only."""

from collections.abc import Sequence
from pathlib import Path

from finelip.sources.captioned_files import CaptionedFiles, Record
from finelip.sources.pictures import SUFFIXES
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError


class Urban1k(CaptionedFiles):
    """``root[/Urban1k]/image/N.jpg`` and ``caption/N.txt``, in the order of their numbers.

    Args:
        root: The folder.
        whole: Take the whole text, as for generating pictures; else its first line, as for retrieval.
        name: What the set is called.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self, root: str | Path, whole: bool = False, name: str = "urban1k", provenance: Provenance | None = None
    ) -> None:
        super().__init__(root, name, provenance)
        self.whole = whole

    def records(self, split: str) -> Sequence[Record]:
        if split != "test":
            return []
        captions = existing(self._folder / "caption", "data.source.root", "folder")
        pictures = existing(self._folder / "image", "data.source.root", "folder")
        texts = {path.stem: path for path in captions.iterdir() if path.suffix.lower() == ".txt"}
        images: dict[str, Path] = {}
        for path in sorted(pictures.iterdir()):
            if path.suffix.lower() not in SUFFIXES:
                continue
            if path.stem in images:
                raise UsageError(
                    f"data.source.root must hold one picture per number, {pictures} has {images[path.stem].name} and "
                    f"{path.name}"
                )
            images[path.stem] = path
        for kind, alone in (("caption", images.keys() - texts.keys()), ("picture", texts.keys() - images.keys())):
            if alone:
                raise UsageError(
                    f"data.source.root must hold a picture and a caption of each number, {self._folder} has no {kind} "
                    f"of {min(alone, key=_order)}"
                )
        return [Record(f"image/{images[stem].name}", self._text(texts[stem])) for stem in sorted(images, key=_order)]

    def file(self, name: str) -> Path:
        """Where a picture lies."""
        return self._folder / name

    @property
    def _folder(self) -> Path:
        below = self.root / "Urban1k"
        return below if below.is_dir() else self.root

    def _text(self, path: Path) -> str:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"data.source.root: every caption must be text in UTF-8, {path} is not ({error})"
            ) from error
        text = text.strip() if self.whole else text.partition("\n")[0].strip()
        if not text:
            part = "caption" if self.whole else "first line of a caption"
            raise UsageError(f"data.source.root: every {part} must hold text, that of {path} is empty")
        return text


def _order(stem: str) -> tuple[bool, int, str]:
    return not stem.isdecimal(), int(stem) if stem.isdecimal() else 0, stem
