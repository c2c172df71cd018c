"""Rebuild the photographs that finelip ships from the packages they were taken from.

``python tools/build_captioned_photos.py --root FOLDER [--root FOLDER]``: below the folders lie ``skimage/data`` of the
Python package scikit-image 0.26.0 and ``sklearn/datasets/images`` of scikit-learn 1.9.1, as in a ``site-packages``
folder or an unpacked wheel. Names, sources and captions are read from ``captions.json``, which is written by hand.
"""

import argparse
import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageChops

from finelip.sources.pictures import opened

FOLDER = Path(__file__).parents[1] / "packages/finelip/src/finelip/samples/captioned_photos"
LONG_SIDE = 320
QUALITY = 85


def photograph(file: Path) -> bytes:
    """A JPEG of at most 320 pixels; smaller pictures keep their size, and grey ones have one channel."""
    picture = opened(file)
    red, green, blue = picture.split()
    if not (ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()):
        picture = red
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def found(source: str, roots: Sequence[Path]) -> Path:
    """The file of a source package below one of the folders."""
    for root in roots:
        if (root / source).is_file():
            return root / source
    raise SystemExit(f"--root must hold {source}, {', '.join(map(str, roots))} do not")


def main() -> None:
    """Write the photographs and print their checksums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--root", type=Path, action="append", required=True, help="folder of skimage or sklearn")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write; the shipped one by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    total = 0
    for entry in json.loads((FOLDER / "captions.json").read_text(encoding="utf-8")):
        content = photograph(found(entry["source"], options.root))
        (options.out / entry["file"]).write_bytes(content)
        total += len(content)
        print(f"{sha256(content).hexdigest()}  {entry['file']}  {len(content):,} bytes")
    print(f"{total:,} bytes together")


if __name__ == "__main__":
    main()
