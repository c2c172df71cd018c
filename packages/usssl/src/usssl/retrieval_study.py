"""``usssl study retrieval``: whether a clip is found again by another of its frames, by each of several backbones."""

import csv
import io
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.atomic import write_text
from shared.outputs import output_folder
from usssl.grid import check_seeds, named_inits
from usssl.sweep_report import markdown

PIXELS = "pixel correlation"


def retrieval(words: Sequence[str], extra: Sequence[str]) -> Callable[..., None]:
    """The study with the options of the data that came behind ``--``."""

    def study(
        inits: list[str] = ["random"],  # noqa: B006  read only; jsonargparse shows it as the default
        first: int = 0,
        last: int = -1,
        seed: int = 7,
        out: str = "runs/retrieval",
    ) -> None:
        """Find each clip among all by another of its frames: by features of backbones, and by plain pixels.

        The frame FIRST of each clip asks, the frames LAST of all clips answer; the nearest by cosine counts. Pixel
        correlation is the same with the pictures' pixels, centred, for features; frames of several sizes are brought to
        data.image_size for it. Clips are those of training and of
        validation of `usssl pretrain`'s data, whose options go behind `--`. Writes OUT/retrieval.csv,
        OUT/table.md and OUT/command.txt.

        Args:
            inits: Backbones to compare, as NAME=FILE, FILE, random or imagenet.
            first: Frame that asks, from 0; negative ones count from the end.
            last: Frame that answers.
            seed: Of random weights.
            out: Folder of the results.
        """
        starts = named_inits(inits)
        check_seeds([seed], "--seed")
        folder = output_folder(out)
        rows, told = rates(starts, first, last, seed, extra)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["init", "clips", "found", "top1"], *rows])
        write_text(folder / "retrieval.csv", text.getvalue())
        lines = [[name, f"{found} of {clips}", f"{100 * rate:.1f} %"] for name, clips, found, rate in rows]
        page = f"{told}\n\n{markdown(['features', 'clips found again', 'top-1'], lines)}"
        command = shlex.join(["usssl", *words])
        write_text(folder / "table.md", f"`{command}`\n\n{page}\n")
        write_text(folder / "command.txt", command + "\n")
        print(page)

    return study


def rates(
    starts: dict[str, str], first: int, last: int, seed: int, extra: Sequence[str]
) -> tuple[list[tuple[str, int, int, float]], str]:
    """Name, clips, clips found and their share: of the pixels, then of every start; and a line about the data."""
    import torch

    from shared.federated.seeds import derived_seed
    from usssl.backbones import build_backbone
    from usssl.clip_retrieval import centred_pixels, embedded, frames_at, same_clip_rate
    from usssl.finetuning import RANDOM
    from usssl.initialise import initialise, load_backbone
    from usssl.training import parsed_pretraining
    from usssl.unlabelled import UltrasoundVideoDataModule

    parsed = parsed_pretraining(extra)
    backbones = {}
    for name, init in starts.items():
        kind = RANDOM if init in ("random", "imagenet") else load_backbone(Path(init), "--inits")[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            backbones[name] = build_backbone(kind)
        initialise(backbones[name], init, "--inits")
    data = UltrasoundVideoDataModule(**parsed.part("data"))
    clips = data.all_clips
    pairs = [frames_at(clips, number, option) for option, number in (("--first", first), ("--last", last))]
    pixels = centred_pixels([picture for pictures in pairs for picture in pictures], data.image_size, data.resize)
    found = {PIXELS: same_clip_rate(pixels[: len(clips)], pixels[len(clips) :])}
    for name, backbone in backbones.items():
        features = (embedded(backbone, pictures, data.image_size, data.resize) for pictures in pairs)
        found[name] = same_clip_rate(*features)
    rows = [(name, len(clips), round(rate * len(clips)), rate) for name, rate in found.items()]
    told = f"frame {first} to frame {last} of {len(clips)} clips, {data.data_name} ({data.provenance} data)"
    return rows, told
