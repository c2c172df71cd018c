"""``finelip prepare``: shipped and generated sets as files, and public sets counted and checked.

Nothing is downloaded. Libraries are imported by the preset that runs.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.prepare import Preset, claim, prepare, write_text

if TYPE_CHECKING:
    from finelip.sources.pairs import PairSource


def run(words: list[str]) -> None:
    """``finelip prepare [--preset NAME] [options]``."""
    prepare("finelip", PRESETS, words)


def late_detail(
    out: str,
    layout: Literal["docci", "sharegpt4v"] = "docci",
    pairs: int = 4000,
    validation_pairs: int = 400,
    test_pairs: int = 400,
    size: int = 96,
    seed: int = 73,
) -> None:
    """Generated pictures whose captions differ only after token 77 (synthetic).

    Args:
        out: Folder to write.
        layout: Of the files; both are read by readers of this package.
        pairs: Training pairs.
        validation_pairs: Validation pairs.
        test_pairs: Test pairs.
        size: Height and width of the pictures.
        seed: Of everything.
    """
    from finelip.late_detail.source import LateDetail  # type: ignore[import-not-found]

    made = {"pairs": pairs, "validation_pairs": validation_pairs, "test_pairs": test_pairs, "size": size, "seed": seed}
    _write("late-detail", LateDetail(**made), out, layout, **made)


def captioned_photos(out: str, layout: Literal["docci", "sharegpt4v"] = "docci", crops: bool = True) -> None:
    """The shipped photographs with their long captions.

    Args:
        out: Folder to write.
        layout: Of the files; both are read by readers of this package.
        crops: Also the four crops of each.
    """
    from finelip.captioned_photos import CaptionedPhotos

    _write("captioned-photos", CaptionedPhotos(crops), out, layout, crops=crops)


def sharegpt4v(root: str, out: str, validation_records: int = 1000, pictures: bool = True, workers: int = 0) -> None:
    """Count and check ShareGPT4V.

    Args:
        root: The folder of share-captioner_coco_lcs_sam_1246k_1107.json.
        out: Folder for the summary.
        validation_records: So many from the front are for validation.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.sharegpt4v import ShareGPT4V

    _check("sharegpt4v", ShareGPT4V(root, validation_records=validation_records), root, out, pictures, workers)


def urban1k(root: str, out: str, whole: bool = False, pictures: bool = True, workers: int = 0) -> None:
    """Count and check Urban1k.

    Args:
        root: The folder Urban1k.
        out: Folder for the summary.
        whole: Take whole texts, not their first lines.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.urban1k import Urban1k

    _check("urban1k", Urban1k(root, whole), root, out, pictures, workers)


def docci(root: str, out: str, pictures: bool = True, workers: int = 0) -> None:
    """Count and check DOCCI.

    Args:
        root: The folder of docci_descriptions.jsonlines.
        out: Folder for the summary.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.docci import Docci

    _check("docci", Docci(root), root, out, pictures, workers)


def dci(
    root: str,
    out: str,
    captions: Literal["joined", "extra", "short"] = "joined",
    pictures: bool = True,
    workers: int = 0,
) -> None:
    """Count and check Densely Captioned Images by its splits.

    Args:
        root: The folder densely_captioned_images.
        out: Folder for the summary.
        captions: Short caption, extra caption or both.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.dci import Dci

    _check("dci", Dci(root, captions), root, out, pictures, workers)


def long_dci(root: str, out: str, table: str | None = None, pictures: bool = True, workers: int = 0) -> None:
    """Count and check Long-DCI.

    Args:
        root: The folder densely_captioned_images.
        out: Folder for the summary.
        table: TULIP's dci_long.csv in place of the annotations.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.dci import LongDci

    _check("long-dci", LongDci(root, table), root, out, pictures, workers)


def iiw(root: str, out: str, annotations: str | None = None, pictures: bool = True, workers: int = 0) -> None:
    """Count and check ImageInWords.

    Args:
        root: The folder of docci, docci_aar and dci.
        out: Folder for the summary.
        annotations: The folder datasets of google/imageinwords; without it the root.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.iiw import Iiw

    _check("iiw", Iiw(root, annotations), root, out, pictures, workers)


def coco(root: str, out: str, captions: int = 5, pictures: bool = True, workers: int = 0) -> None:
    """Count and check the captions of COCO 2017.

    Args:
        root: The folder of annotations and val2017.
        out: Folder for the summary.
        captions: Of each picture.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.coco import CocoCaptions

    _check("coco", CocoCaptions(root, captions), root, out, pictures, workers)


def flickr30k(root: str, out: str, karpathy: str | None = None, pictures: bool = True, workers: int = 0) -> None:
    """Count and check Flickr30k: all 31,783 pictures, or Karpathy's split.

    Args:
        root: The folder of results_20130124.token.
        out: Folder for the summary.
        karpathy: dataset_flickr30k.json.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.flickr30k import Flickr30k

    _check("flickr30k", Flickr30k(root, karpathy), root, out, pictures, workers)


def csv(root: str, out: str, table: str, sep: str | None = None, pictures: bool = True, workers: int = 0) -> None:
    """Count and check a table of picture files and captions.

    Args:
        root: The folder that picture names are relative to.
        out: Folder for the summary.
        table: A table with the columns filepath and title, perhaps split.
        sep: Between its fields; found out without.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.caption_csv import CaptionCsv

    _check("csv", CaptionCsv(table, root, sep=sep), root, out, pictures, workers)


def folder(root: str, out: str, pictures: bool = True, workers: int = 0) -> None:
    """Count and check a folder of pictures with a text beside each.

    Args:
        root: The folder.
        out: Folder for the summary.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.caption_folder import CaptionFolder

    _check("folder", CaptionFolder(root), root, out, pictures, workers)


def tar_shards(shards: str, out: str, json_key: str = "caption", pictures: bool = True, workers: int = 0) -> None:
    """Count and check shards of webdataset.

    Args:
        shards: Their path with {000..003} or {a,b}, several joined by a double colon.
        out: Folder for the summary.
        json_key: Of the captions in JSON files.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.tar_shards import TarShards

    _check("tar-shards", TarShards(shards, json_key=json_key), shards, out, pictures, workers)


def captioned_photos_pack(
    root: str,
    out: str,
    captions: Literal["long", "short", "joined"] = "long",
    pictures: bool = True,
    workers: int = 0,
) -> None:
    """Count and check a folder of captions.jsonl with long and short captions.

    Args:
        root: The folder of captions.jsonl.
        out: Folder for the summary.
        captions: Which captions.
        pictures: Open every picture.
        workers: Processes for that.
    """
    from finelip.sources.captioned_photos_pack import CaptionedPhotosPack

    _check("captioned-photos-pack", CaptionedPhotosPack(root, captions), root, out, pictures, workers)


PRESETS: dict[str, Preset] = {
    "captioned-photos": captioned_photos,
    "captioned-photos-pack": captioned_photos_pack,
    "coco": coco,
    "csv": csv,
    "dci": dci,
    "docci": docci,
    "flickr30k": flickr30k,
    "folder": folder,
    "iiw": iiw,
    "late-detail": late_detail,
    "long-dci": long_dci,
    "sharegpt4v": sharegpt4v,
    "tar-shards": tar_shards,
    "urban1k": urban1k,
}
"""Name of a preset to its function."""


def _write(preset: str, source: "PairSource", out: str, layout: Literal["docci", "sharegpt4v"], **made: object) -> None:
    """Write a set as files, and print how they are read."""
    from finelip.prepared_files import write_files
    from finelip.set_summary import summarised, summary_table

    where = claim(out, preset, layout=layout, provenance=source.provenance, **made)
    options = write_files(source, where, layout)
    print(summary_table(summarised(source, open_pictures=False)))
    print(f"{where}: {source.name} ({source.provenance} data); read by\n  {options}")


def _check(preset: str, source: "PairSource", root: str, out: str, pictures: bool, workers: int) -> None:
    """Write ``summary.json`` and print it as a table; pictures that cannot be opened are named."""
    from finelip.set_summary import summarised, summary_facts, summary_table
    from shared.errors import UsageError

    if workers < 0:
        raise UsageError(f"--workers must be at least 0, got {workers}")
    summary = summarised(source, pictures, workers)
    place = str(Path(root).expanduser().resolve())
    where = claim(out, preset, root=place, provenance=source.provenance, name=source.name)
    left_out = getattr(source, "left_out", {})
    facts = {"name": source.name, "provenance": source.provenance, "left_out": left_out}
    write_text(where / "summary.json", json.dumps(facts | {"splits": summary_facts(summary)}, indent=1) + "\n")
    print(summary_table(summary))
    for split, count in left_out.items():
        if count:
            print(f"{split}: {count} samples have no picture or no caption and are left out")
    for split, part in summary.items():
        for name, reason in (part.unreadable or {}).items():
            print(f"{split}: {name}: {reason}")
    print(f"{where}: {source.name} ({source.provenance} data)")
