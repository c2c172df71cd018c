"""The ``finelip`` command."""

from collections.abc import Sequence

from shared.commands import Program

PROGRAM = Program(
    name="finelip",
    summary="CLIP that reads 248 tokens and matches them to image patches",
    verbs=(),
)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    PROGRAM.main(args)
