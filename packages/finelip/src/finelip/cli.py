"""The ``finelip`` command."""

from collections.abc import Sequence

from shared.commands import Program, Verb

PROGRAM = Program(
    name="finelip",
    summary="CLIP that reads 248 tokens and matches them to image patches",
    verbs=(
        Verb("stretch", "Any CLIP to 248 text positions and more, in any layout, and back.", "finelip.stretch:run"),
        Verb("export", "A trained model for other programs: ONNX, Hugging Face, SDXL ...", "finelip.export:run"),
    ),
    examples=(
        "finelip stretch --weights ViT-B-16.pt --out long.safetensors",
        "finelip export --layout onnx --out towers     # both towers of the newest checkpoint",
    ),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
