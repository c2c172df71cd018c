"""The ``finelip`` command."""

from collections.abc import Sequence

from shared.commands import Program, Verb

PROGRAM = Program(
    name="finelip",
    summary="CLIP that reads 248 tokens and matches them to image patches",
    verbs=(
        Verb("fit", "Train on pictures with long captions.", "finelip.training:run"),
        Verb("validate", "Recall of a checkpoint on the validation pairs.", "finelip.training:run"),
        Verb("test", "Recall of a checkpoint on the test pairs, whole and cut at 77 tokens.", "finelip.training:run"),
        Verb("predict", "The best of some texts for every picture of a folder, as a table.", "finelip.predict:run"),
        Verb("sweep", "The paper's ablations over seeds: one table; resumable.", "finelip.sweep:run"),
        Verb("encode", "Pictures and texts once and for all: vectors and sets in shard files.", "finelip.encode:run"),
        Verb("index", "Encodings as one searchable index.", "finelip.index_verb:run"),
        Verb("retrieve", "Pictures for texts, texts for pictures; a gallery as report.html.", "finelip.retrieve:run"),
        Verb("explain", "Which words of a text met which parts of a picture.", "finelip.explain:run"),
        Verb("stretch", "Any CLIP to 248 text positions and more, in any layout, and back.", "finelip.stretch:run"),
        Verb("export", "A trained model for other programs: ONNX, Hugging Face, SDXL ...", "finelip.export:run"),
        Verb("prepare", "Shipped and generated sets as files; public sets counted.", "finelip.prepare:run"),
    ),
    examples=(
        "finelip fit                                    # late-detail, from the small CLIP that comes with it",
        "finelip test                                   # the newest checkpoint, whole captions against cut ones",
        "finelip encode --out shards -- --config captioned_photos",
        "finelip index --shards shards --out index",
        'finelip retrieve --index index --text "a cat on a red sofa, a window behind it"',
        "finelip stretch --weights ViT-B-16.safetensors --out long.safetensors",
        "finelip export --layout onnx --out towers      # both towers of the newest checkpoint",
        "finelip fit --data.help                        # options of the data; --model.help of the model",
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
