"""``fedsam export``: trained models as files to pass on, each with a model card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import UsageError

if TYPE_CHECKING:
    from fedsam.trained import Trained

HELP = """\
usage: fedsam export --what KIND --out FILE [--ckpt_path P] [--site NAME] [--image_size S]

Write a trained model as one file to pass on, and a model card (FILE.md) beside it. The training data need not be at
hand.

kinds:
  merged    The whole model, LoRA folded into its weights, with class names and how scans are read: all that
            `fedsam predict --weights FILE` needs. `fedsam fit --model.init FILE` starts from it.
  adapters  What was trained alone (7.4 MB for FLAP-SAM of ViT-B); for those who have the same SAM checkpoint:
            `fedsam predict --weights FILE --base SAM.pth`.
  sam       A checkpoint that Meta's segment_anything reads; what it has no place for (a head per class) is told.

options:
  --out FILE        .safetensors; for sam also .pth, which segment_anything reads.
  --ckpt_path P     Checkpoint of a run; by default the newest (`last`) of --run.name.
  --site NAME       Whose model, where each site has its own (model.regime local, model.num_lora above 1).
  --image_size S    For sam: the image size to whose grid positions are resized (segment_anything builds for 1024)."""

OWN: dict[str, dict[str, Any]] = {
    "what": {"type": str | None},
    "out": {"type": str | None},
    "site": {"type": str | None},
    "image_size": {"type": int | None},
}
KINDS = ("merged", "adapters", "sam")


def run(words: list[str]) -> None:
    """``fedsam export --what KIND --out FILE``."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return
    from shared.commands import option_value

    what, out = option_value(words, "--what"), option_value(words, "--out")
    if what not in KINDS:
        raise UsageError(f"--what must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {what or 'none'}")
    if out is None:
        raise UsageError("--out must name the file to write, got none")
    path = Path(out)
    suffixes = (".safetensors", ".pth") if what == "sam" else (".safetensors",)
    if path.suffix not in suffixes:
        raise UsageError(f"--out must end in {' or '.join(suffixes)} for {what}, got {out}")
    from fedsam.export import export_stock_sam
    from fedsam.predict import model_of
    from fedsam.trained import save_merged, save_trained_adapters
    from shared.text_table import size

    options, trained = model_of(words, OWN)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "sam":
        told = str(export_stock_sam(trained.segmenter.network, path, options.chosen.image_size))
    else:
        saved = save_merged(trained, path) if what == "merged" else save_trained_adapters(trained, path)
        told = f"{saved:,} B of tensors ({size(saved)})"
    card = path.with_name(path.name + ".md")
    _write_card(card, path, what, trained, told)
    print(f"{path}: {told}\n{card}: model card")


def _write_card(card: Path, path: Path, what: str, trained: "Trained", told: str) -> None:
    from shared.atomic import write_text
    from shared.checkpoints import sha256_of
    from shared.versions import versions

    network, reading = trained.segmenter.network, trained.reading
    assert trained.folder is not None  # export reads runs
    start = {"none": "random weights", "self": "the tiny weights that come with fedsam"}.get(
        network.pretrained, f"weights of a file, SHA-256 {network.weights_sha256 or 'not recorded'}"
    )
    use = {
        "merged": f"`fedsam predict --scans SCAN --weights {path.name} --out DIR`",
        "adapters": f"`fedsam predict --scans SCAN --weights {path.name} --base SAM_CHECKPOINT --out DIR`",
        "sam": f"segment_anything's registry with checkpoint {path.name}",
    }[what]
    whose = f"the model of {trained.site} alone" if trained.site else f"{len(reading.sites)} sites"
    lines = [
        f"# {path.name}",
        "",
        "Not a medical device. Not for diagnosis or treatment; scores below are those of the data named below alone.",
        "",
        f"- content: {what}; {told}",
        f"- SHA-256: {sha256_of(path)}",
        f"- model: SAM {network.size}, images of {network.image_size} pixels, variant {network.variant}, rank "
        f"{network.plan.rank}, {network.trainable_numbers():,} numbers trained",
        f"- started from: {start}",
        f"- classes: {', '.join(reading.class_names)}",
        f"- trained on: {reading.data} ({reading.provenance} data), {trained.regime}, {whose}",
        f"- use: {use}",
    ]
    lines += _scores(trained.folder)
    lines += ["", f"Versions: {', '.join(f'{name} {version}' for name, version in versions('fedsam').items())}"]
    write_text(card, "\n".join(lines) + "\n")


def _scores(folder: Path) -> list[str]:
    """Scores of the run and of its test, as far as they were measured."""
    lines = []
    for file, title in (("results.json", "while training, after the last round"), ("results_test.json", "of the test")):
        if not (folder / file).is_file():
            continue
        record = json.loads((folder / file).read_text(encoding="utf-8"))
        scores = {
            name: value
            for name, value in record["metrics"].items()
            if name.split("/")[0] in ("val", "test")
            and name.split("/")[1] in ("dice", "hd95", "surface_dice", "volumes")
        }
        if scores:
            lines += ["", f"Scores {title} (`{record['command']}`):", "", "| score | value |", "| --- | --- |"]
            lines += [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    return lines or ["", "No scores were recorded: the run did not end."]
