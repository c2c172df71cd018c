"""``finelip index``: encodings as one searchable index."""

from finelip.one_or_several import OneOrSeveral, several
from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip index --shards DIR ... --out DIR``."""

    def index(shards: OneOrSeveral, out: str, faiss: bool = False) -> None:
        """Make encodings of one model searchable: their global vectors in one file, read through a memory map.

        The refined sets stay in the shards. An index is written whole or not at all.

        Args:
            shards: A folder that ``finelip encode`` wrote, or a list of them.
            out: Folder to write; an index that is there is replaced.
            faiss: Write a FAISS graph of the vectors too, for searches with ``--faiss true``; exact search needs none.
        """
        from pathlib import Path

        from finelip.index import build_index

        folder = Path(out).expanduser()
        about = build_index([Path(shard).expanduser() for shard in several(shards)], folder, faiss)
        told = " and ".join(f"{len(about[side])} {side}" for side in ("images", "texts") if about[side])
        print(f"{folder}: {told}, {about['precision']}, {about['dim']} wide")

    run_function("finelip", index, words)
