"""The model card of an exported or stretched CLIP."""

from pathlib import Path

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from finelip.finelip import FineLIP
from shared.model_card import ModelCard, described
from shared.run_facts import run_facts

LOADING = {
    "finelip": """
from pathlib import Path

from finelip.checkpoints.write import read_model

model = read_model(Path("{name}"))
""",
    "openai": """
from finelip.trained import trained_model

model = trained_model("{name}").model
""",
    "hf": """
from transformers import CLIPModel, CLIPTokenizer

model = CLIPModel.from_pretrained("{name}")
tokenizer = CLIPTokenizer.from_pretrained("{name}")
""",
    "onnx": """
from onnxruntime import InferenceSession

image = InferenceSession("{name}/image.onnx")  # input images
text = InferenceSession("{name}/text.onnx")  # input ids
""",
    "sdxl": """
from transformers import CLIPTextModel, CLIPTokenizer

text_encoder = CLIPTextModel.from_pretrained("{name}/text_encoder")
tokenizer = CLIPTokenizer.from_pretrained("{name}/tokenizer")
""",
    "sdxl_2": """
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

text_encoder = CLIPTextModelWithProjection.from_pretrained("{name}/text_encoder_2")
tokenizer = CLIPTokenizer.from_pretrained("{name}/tokenizer_2")
""",
}
"""Code that loads each layout."""


def card_of(path: Path, layout: str, model: FineLIP, told: str, source: str, run: Path | None = None) -> ModelCard:
    """The card of what ``finelip export`` or ``finelip stretch`` wrote.

    Args:
        path: The file or folder.
        layout: As ``--layout``.
        model: What was written.
        told: What it is, in a phrase.
        source: The file that it was made from, and its SHA-256.
        run: Folder of the run that trained it, where there is one.
    """
    facts = run_facts(run, lambda name: "_r" in name)
    refined = {
        side: "not refined" if net is None or layout not in ("finelip", "onnx") else f"{net.k} refined tokens"
        for side, net in (("image", model.cross_net.aggr_net), ("text", model.cross_net.cap_aggr_net))
    }
    text_only = layout in ("sdxl", "sdxl_2")
    mean, std = (tuple(round(x, 4) for x in values) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    limits = ["Texts longer than the table of positions are cut at their end."]
    if run is None:
        limits.append("Not of a run of `finelip fit`: on what it was trained, the makers of its weights say.")
    elif facts.data:
        limits.append(f"What was measured holds on {facts.data} ({facts.provenance} data).")
    pretrained = str(facts.model.get("pretrained", ""))
    sha = facts.model.get("weights_sha256")
    return ModelCard(
        **described(path, "finelip"),  # type: ignore[arg-type]
        task="Text encoder of a CLIP for long texts."
        if text_only
        else "Scores how well pictures and long texts match: a CLIP with a longer table of text positions.",
        loading=LOADING[{"open_clip": "openai"}.get(layout, layout)].replace("{name}", path.name),
        model={
            "content": told,
            "parameters": f"{sum(p.numel() for p in model.parameters()):,} in the model that it was made from",
            "joint space": f"{model.dim} wide; activation {'QuickGELU' if model.quick_gelu else 'GELU'}",
            "pretrained before the run": pretrained + (f", SHA-256 `{sha}`" if pretrained and sha else ""),
            "made from": source,
        },
        inputs={
            "images": ""
            if text_only
            else f"(B, 3, {model.image_size}, {model.image_size}) float32, {model.patches} patches; [0, 1], then minus "
            f"{mean} and over {std} by channel (CLIP's)",
            "texts": f"(B, L) int64 ids of CLIP's vocabulary, L up to {model.context_length}",
        },
        outputs={
            "vectors": "" if text_only else f"(B, {model.dim}) for images and texts",
            "image set": "" if text_only else refined["image"],
            "text set": "" if text_only else refined["text"],
            "tokens": f"(B, L, {model.config['text_cfg']['width']})" if text_only else "",
        },
        run=facts,
        limits=tuple(limits),
    )
