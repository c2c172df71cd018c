"""``fedsam predict``: label volumes and pictures of any scans, or of the test volumes."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import UsageError

if TYPE_CHECKING:
    from fedsam.options import FitOptions
    from fedsam.trained import Trained
    from fedsam.volumes import Case, Volume

HELP = """\
usage: fedsam predict [--scans PLACE ...] [--out DIR] [--ckpt_path P | --weights FILE] [options of fit]

Segment scans: write each one's classes as NAME.nii.gz on the scan's own grid, with its affine, and a picture NAME.png
beside it (classes in red, blue, yellow and green in turn, known true outlines in white), and print a line per scan. The
training data need not be at hand. Not a medical device.

options:
  --scans PLACE ...  NIfTI files, folders of them, folders with one DICOM series each. Without it the test volumes of
                     the run's data are segmented, with their Dice.
  --out DIR          Where to write; by default `predictions` in the run's folder (`predictions/SITE` for a model of
                     one site's own).
  --ckpt_path P      Checkpoint of a run; by default the newest (`last`) of --run.name.
  --weights FILE     A file of `fedsam export` in place of a run: the whole model, or adapters with --base.
  --base FILE        The SAM checkpoint that the adapters were trained on.
  --site NAME        Take the model of this site, where each has its own (model.regime local, model.num_lora above 1),
                     and treat values as those of this site, where sites have a normalisation each.
  --device D         auto (the GPU where there is one), cpu, cuda:1 ...
  ...                Options of fit, such as --model.inference.mode fused.

examples:
  fedsam predict                                   # the test volumes with the newest checkpoint
  fedsam predict --scans scan.nii.gz --out masks
  fedsam predict --scans folder/ --weights model.safetensors --out masks"""

OWN: dict[str, dict[str, Any]] = {
    "scans": {"type": str, "nargs": "+"},
    "out": {"type": str | None},
    "weights": {"type": str | None},
    "base": {"type": str | None},
    "site": {"type": str | None},
    "device": {"type": str | None},
}


def run(words: list[str]) -> None:
    """``fedsam predict [options]``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    from fedsam.segmentation_output import write_segmentation
    from shared.device import device_named

    options, trained = model_of(words, OWN)
    chosen = options.chosen
    if chosen.out is None and trained.folder is None:
        raise UsageError("--out must name the folder to write where --weights is given, got none")
    folder = Path(chosen.out) if chosen.out else trained.folder / "predictions" / (trained.site or "")  # type: ignore[operator]
    if chosen.scans:
        volumes: Iterable[Volume] = scans(trained, chosen.scans, chosen.site)
    elif trained.folder is not None:
        volumes = test_volumes(options, trained)
    else:
        raise UsageError("--scans must name scans where --weights is given, got none")
    segmenter = trained.segmenter.to(device_named(chosen.device))
    count = 0
    for volume in volumes:
        predicted = segmenter.segment(volume).numpy()
        print(write_segmentation(folder, volume, predicted, trained.reading.class_names), flush=True)
        count += 1
    whose = f"model of {trained.site}" if trained.site else "model"
    kind = trained.reading.provenance
    print(f"{count} label volumes and pictures: {folder} ({whose} trained on {kind} data, {trained.reading.data})")


def model_of(words: list[str], own: dict[str, dict[str, Any]]) -> tuple["FitOptions", "Trained"]:
    """The parsed options and the model that ``--weights`` or ``--ckpt_path`` (by default ``last``) names.

    Raises:
        UsageError: Both are given, or what they name is no model.
    """
    from fedsam.options import FitOptions
    from fedsam.trained import from_file, from_run
    from shared.commands import option_value

    weights = option_value(words, "--weights")
    if weights is not None and option_value(words, "--ckpt_path") is not None:
        raise UsageError(f"--weights must not come with --ckpt_path, got {weights}")
    if weights is None and option_value(words, "--ckpt_path") is None:
        words = [*words, "--ckpt_path", "last"]
    options = FitOptions(words, own)
    base, site = options.chosen.get("base"), options.chosen.get("site")
    if weights is None and base is not None:
        raise UsageError(f"--base must come with --weights, got {base} alone")
    trained = from_run(options) if weights is None else from_file(Path(weights), base)
    if site is not None:
        trained.reading.normalisation(site)  # refuses an unknown one, also where it would change nothing
    return options, trained


def scans(trained: "Trained", places: list[str], site: str | None) -> Iterator["Volume"]:
    """The scans at some places, read as the model wants them. All places are looked at before the first is read."""
    from fedsam.scans import scans_at
    from fedsam.window_dataset import anti_transposed_volume

    reading = trained.reading
    volumes = _read(scans_at(places, reading.normalisation(site), reading.slice_axis, reading.channel))
    return (anti_transposed_volume(volume) for volume in volumes) if reading.anti_transposed else volumes


def _read(cases: "Iterable[Case]") -> Iterator["Volume"]:
    for case in cases:
        try:
            yield case.read()
        except UsageError as error:  # the readers name the option of fit
            raise UsageError(re.sub(r"^data\.source(?=:)", "--scans", str(error))) from error


def test_volumes(options: "FitOptions", trained: "Trained") -> Iterable["Volume"]:
    """The test volumes of the run's data, which must be at hand.

    Raises:
        UsageError: They are not, or they have other classes.
    """
    from fedsam.data import VolumeDataModule

    data = VolumeDataModule(**options.part("data"))
    data.setup()
    if data.class_names != trained.reading.class_names:
        raise UsageError(
            f"data.source must hold the classes of the model ({', '.join(trained.reading.class_names[1:])}), "
            f"got {', '.join(data.class_names[1:])}"
        )
    return data.test_dataloader()
