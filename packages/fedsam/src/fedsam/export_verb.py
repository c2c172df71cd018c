"""``fedsam export``: trained models as files to pass on, each with a model card."""

from pathlib import Path
from typing import Any

from shared.errors import UsageError

HELP = """\
usage: fedsam export --what KIND --out FILE [--ckpt_path P] [--site NAME] [--image_size S]

Write a trained model as one file to pass on, and a model card (FILE.MODEL_CARD.md) beside it. The training data
need not be at hand.

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
    from fedsam.card import card_of
    from fedsam.export import export_stock_sam
    from fedsam.predict import model_of
    from fedsam.trained import save_merged, save_trained_adapters
    from shared.model_card import write_card
    from shared.text_table import size

    options, trained = model_of(words, OWN)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "sam":
        told = str(export_stock_sam(trained.segmenter.network, path, options.chosen.image_size))
    else:
        saved = save_merged(trained, path) if what == "merged" else save_trained_adapters(trained, path)
        told = f"{saved:,} B of tensors ({size(saved)})"
    card = write_card(
        path, card_of(path, what, trained, told, Path(options.chosen.ckpt_path), options.chosen.model.init)
    )
    print(f"{path}: {told}\n{card}: model card")
