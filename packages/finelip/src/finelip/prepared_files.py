"""Any set of captioned pictures as files, in two published layouts that the readers of this package read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finelip.sources.docci import FILE as DOCCI_FILE
from finelip.sources.docci import SPLITS as DOCCI_SPLITS
from finelip.sources.pairs import SPLITS, Pair, PairSource
from shared.errors import UsageError
from shared.prepare import write_images, write_text

Layout = Literal["docci", "sharegpt4v"]
LIST, TEST_LIST = "captions.json", "test.json"
"""Names of the lists of ShareGPT4V's layout."""


def write_files(source: PairSource, folder: Path, layout: Layout) -> str:
    """Write pictures as PNG, then captions; an interrupted call goes on where it stopped.

    - ``docci``: ``docci_descriptions.jsonlines`` with the splits ``train``, ``qual_dev`` (validation) and ``test``, and
      ``images/``.
    - ``sharegpt4v``: ``captions.json``, the validation pairs first; the test pairs in ``test.json``; ``images/``. Its
      short captions are the first sentences of the long ones.

    Args:
        source: The set.
        folder: Where to write; it is there.
        layout: Which of the two.

    Returns:
        The options that read the files.

    Raises:
        UsageError: The layout is unknown.
    """
    if layout not in ("docci", "sharegpt4v"):
        raise UsageError(f"--layout must be docci or sharegpt4v, got {layout!r}")
    sets = {split: source.pairs(split) for split in SPLITS}
    for split, pairs in sets.items():
        _write_pictures(source, split, pairs, folder / "images")
    return _docci(sets, folder) if layout == "docci" else _sharegpt4v(sets, folder)


def picture_name(split: str, pair: Pair) -> str:
    """What the file of its picture is called."""
    return f"{split}_{pair.image_id:05d}.png"


def _write_pictures(source: PairSource, split: str, pairs: Sequence[Pair], folder: Path) -> None:
    firsts: dict[str, int] = {}
    for place, pair in enumerate(pairs):
        firsts.setdefault(picture_name(split, pair), place)
    rows = list(firsts.values())

    def pixels(position: int) -> np.ndarray:
        return np.asarray(source.picture(split, rows[position]).convert("RGB"))

    write_images([folder / name for name in firsts], pixels, split)


def _docci(sets: dict[str, Sequence[Pair]], folder: Path) -> str:
    lines = [
        json.dumps(
            {
                "example_id": f"{DOCCI_SPLITS[split]}_{place:05d}",
                "split": DOCCI_SPLITS[split],
                "image_file": picture_name(split, pair),
                "description": pair.caption,
            },
            ensure_ascii=False,
        )
        for split, pairs in sets.items()
        for place, pair in enumerate(pairs)
    ]
    write_text(folder / DOCCI_FILE, "\n".join(lines) + "\n")
    return f"--data.source finelip.sources.docci.Docci --data.source.root {folder}"


def _sharegpt4v(sets: dict[str, Sequence[Pair]], folder: Path) -> str:
    options = [f"--data.source finelip.sources.sharegpt4v.ShareGPT4V --data.source.root {folder}"]
    options.append(f"--data.source.file {LIST} --data.source.validation_records {len(sets['validation'])}")
    front = [_turns(split, pair) for split in ("validation", "train") for pair in sets[split]]
    write_text(folder / LIST, json.dumps(front, ensure_ascii=False, indent=0) + "\n")
    if sets["test"]:
        write_text(folder / TEST_LIST, json.dumps([_turns("test", pair) for pair in sets["test"]], indent=0) + "\n")
        options.append(f"--data.source.test {TEST_LIST}")
    return " ".join(options)


def _turns(split: str, pair: Pair) -> dict[str, Any]:
    return {
        "id": picture_name(split, pair).removesuffix(".png"),
        "image": f"images/{picture_name(split, pair)}",
        "conversations": [
            {"from": "human", "value": "Describe the picture.\n<image>"},
            {"from": "gpt", "value": pair.caption},
        ],
    }
