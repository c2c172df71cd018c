"""``usssl study retrieval``: whether a clip is found again by another of its frames, by each of several backbones."""

import csv
import io
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.atomic import write_text
from usssl.grid import named_inits
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
        correlation is the same with the pictures' pixels, centred, for features. Clips are those of training and of
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
        rows, told = rates(starts, first, last, seed, extra)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
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

    data = UltrasoundVideoDataModule(**parsed_pretraining(extra).part("data"))
    clips = data.all_clips
    asking, answering = (frames_at(clips, number) for number in (first, last))
    found = {PIXELS: same_clip_rate(*(centred_pixels(pictures) for pictures in (asking, answering)))}
    for name, init in starts.items():
        kind = RANDOM if init in ("random", "imagenet") else load_backbone(Path(init), "inits")[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "weights"))
            backbone = build_backbone(kind)
        initialise(backbone, init, "inits")
        features = (embedded(backbone, pictures, data.image_size, data.resize) for pictures in (asking, answering))
        found[name] = same_clip_rate(*features)
    rows = [(name, len(clips), round(rate * len(clips)), rate) for name, rate in found.items()]
    told = f"frame {first} to frame {last} of {len(clips)} clips, {data.data_name} ({data.provenance} data)"
    return rows, told
