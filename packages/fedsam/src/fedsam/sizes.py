"""Sizes of SAM: the three that are published and a tiny one for machines without accelerator."""

from dataclasses import dataclass

from shared.errors import UsageError


@dataclass(frozen=True)
class Size:
    """What makes one SAM larger than another.

    Attributes:
        width: Channels of the encoder's tokens.
        depth: Blocks of the encoder.
        heads: Attention heads of each block.
        global_blocks: Blocks (from 0) that attend over the whole image; the others attend inside windows.
        mlp_ratio: Hidden width of a block's MLP over ``width``.
        window: Side of a window, in patches.
        prompt_width: Channels of the image embedding, the prompts and the decoder.
        decoder_mlp: Hidden width of the MLPs of the decoder's transformer.
        decoder_heads: Attention heads of the decoder.
        patch: Side of a patch, in pixels.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    mlp_ratio: float = 4.0
    window: int = 14
    prompt_width: int = 256
    decoder_mlp: int = 2048
    decoder_heads: int = 8
    patch: int = 16


SIZES = {
    "tiny": Size(128, 6, 4, (2, 5), mlp_ratio=3.0, window=8, prompt_width=64, decoder_mlp=256, decoder_heads=4),
    "vit_b": Size(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Size(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Size(1280, 32, 16, (7, 15, 23, 31)),
}
"""The published sizes (Kirillov et al., Segment Anything, 2023) and ``tiny``, this project's own."""


def size_named(name: str) -> Size:
    """The size called ``name``.

    Raises:
        UsageError: There is none.
    """
    if name not in SIZES:
        raise UsageError(f"model.size must be one of {', '.join(SIZES)}, got {name!r}")
    return SIZES[name]
