"""``finelip export``: a trained model as files to pass on."""

from typing import TYPE_CHECKING, Literal

from shared.commands import run_function

if TYPE_CHECKING:
    from finelip.checkpoints.layouts import Layout

Kind = Literal["finelip", "openai", "open_clip", "hf", "onnx", "sdxl", "sdxl_2"]
LAYOUTS: dict[str, "Layout"] = {
    "finelip": "finelip",
    "openai": "openai",
    "open_clip": "open_clip",
    "hf": "huggingface",
}
"""Those that :func:`finelip.checkpoints.write.write_clip` writes."""


def run(words: list[str]) -> None:
    """``finelip export --out OUT``."""

    def export(out: str, layout: Kind = "finelip", weights: str = "last", root: str = "runs") -> None:
        """Write a model for other programs, and a model card beside it.

        ``finelip``: everything, for ``--weights`` of the other verbs and for ``finelip fit --model.init``. ``openai``
        and ``open_clip`` (one layout): the CLIP with its long table of positions, without token refinement. ``hf``: the
        same as a folder for ``transformers.CLIPModel``, with tokenizer. ``onnx``: a folder with both towers, global
        vectors and sets, any batch and text length. ``sdxl``: text encoder and tokenizer for the first text encoder of
        SDXL pipelines (``CLIPTextModel``); ``sdxl_2`` for the second one, with projection.

        Args:
            out: A file ending in .safetensors (finelip, openai, open_clip), else a folder that does not exist yet.
            layout: See above.
            weights: Checkpoint of fit, or any file of a CLIP, Long-CLIP or FineLIP; last is the newest checkpoint.
            root: Folder of all runs.
        """
        from pathlib import Path

        from finelip.card import card_of
        from finelip.checkpoints.text_encoder import write_text_encoder
        from finelip.checkpoints.write import write_clip
        from finelip.onnx_towers import require_onnx, write_onnx
        from finelip.trained import trained_model
        from shared.model_card import write_card
        from shared.outputs import output_folder
        from shared.runs import folder_of_checkpoint

        path = Path(out).expanduser()
        output_folder(path.parent)
        if layout == "onnx":
            require_onnx()
        trained = trained_model(weights, root)
        model = trained.model
        if layout == "onnx":
            gaps = write_onnx(model, path)
            told = "both towers as ONNX graphs, which differ from the model by at most " + ", ".join(
                f"{gap:.1g} ({tower})" for tower, gap in gaps.items()
            )
        elif layout in ("sdxl", "sdxl_2"):
            write_text_encoder(model, path, projection=layout == "sdxl_2")
            told = (
                f"the text encoder of {model.context_length} tokens and its tokenizer, `text_encoder` and `tokenizer` "
                "of an SDXL pipeline; its tokens are those after the last layer's norm"
            )
        else:
            write_clip(model, path, LAYOUTS[layout])
            told = "the whole model" if layout == "finelip" else "the CLIP with its long table of positions"
        if model.refinement != "none" and layout not in ("finelip", "onnx"):
            told += "; lost: token refinement, so global scores only"
        source = f"{trained.path.name}, SHA-256 `{trained.sha256}`"
        card = write_card(path, card_of(path, layout, model, told, source, folder_of_checkpoint(trained.path)))
        print(f"{path}: {told}\n{card}: model card")

    run_function("finelip", export, words)
