"""``finelip encode``: pictures and texts as shard files."""

from typing import Literal

from shared.commands import run_function


def run(words: list[str]) -> None:
    """``finelip encode --out DIR [options] [-- options of fit's data]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def encode(
        out: str,
        pictures: str | None = None,
        texts: str | None = None,
        split: str = "test",
        weights: str = "last",
        precision: Literal["fp16", "int8"] = "fp16",
        shard_size: int = 1024,
        batch_size: int = 64,
        thumbnails: int = 160,
        max_unreadable: float = 0.01,
        device: str = "auto",
        root: str = "runs",
    ) -> None:
        """Encode pictures, texts or a captioned set once: global vectors and refined sets in safetensors shards.

        With neither ``--pictures`` nor ``--texts`` it is the data of ``finelip fit``, whose options go behind ``--``:
        ``finelip encode --out DIR -- --config captioned_photos``. Killed and run again it goes on where it was, and
        comes to the same files.

        Args:
            out: Folder to write.
            pictures: A picture, or a folder of them at any depth.
            texts: A text file with a text a line.
            split: Of the data: train, validation or test.
            weights: Checkpoint of fit, or any file of a CLIP, Long-CLIP or FineLIP; last is the newest checkpoint.
            precision: fp16, or int8 with a scale per vector, half as large.
            shard_size: Items of a shard.
            batch_size: Items that are encoded at a time.
            thumbnails: Most pixels of the pictures that search results show, kept in the shards; 0 keeps none.
            max_unreadable: Share of the pictures that may be unreadable; those are left out and named.
            device: cpu, cuda, or auto.
            root: Folder of all runs.
        """
        from pathlib import Path

        from finelip.encoding import (
            Encoder,
            ShardOptions,
            cut_sentence,
            encode_collection,
            from_pictures,
            from_source,
            from_texts,
        )
        from finelip.trained import trained_model
        from shared.device import device_named
        from shared.errors import UsageError

        if sum((pictures is not None, texts is not None, bool(extra))) > 1:
            raise UsageError("--pictures, --texts and options behind -- exclude one another, got more than one of them")
        options = ShardOptions(precision, shard_size, thumbnails, max_unreadable)
        encoder = Encoder(trained_model(weights, root).model, batch_size, device_named(device))
        if pictures is not None:
            collection, split = from_pictures(Path(pictures).expanduser()), "all"
        elif texts is not None:
            collection, split = from_texts(Path(texts).expanduser()), "all"
        else:
            from finelip.training import source_of

            collection = from_source(source_of(extra), split)
        folder = Path(out).expanduser()
        done = encode_collection(collection, split, encoder, folder, options)
        told = " and ".join(f"{count} {side}" for side, count in done.counts.items() if count)
        there = f", {done.kept} were there" if done.kept else ""
        source = f"{collection.name} (provenance: {collection.provenance})"
        print(f"{folder}: {told} of {source}, {done.made} shards made{there}")
        if done.truncated:
            print(cut_sentence(done.truncated, encoder.model.context_length))
        for name, why in list(done.unreadable.items())[:10]:
            print(f"left out: {name} ({why})")
        if len(done.unreadable) > 10:
            print(f"left out: {len(done.unreadable) - 10} more")

    run_function("finelip", encode, words[:position])
