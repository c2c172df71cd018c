"""Ways to fine-tune SAM that the paper compares, each a set of components to train; users may combine their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedsam.components import expand
from shared.commands import nearest
from shared.errors import UsageError

_HEADS = ("decoder.upscaling", "decoder.hypernetworks", "decoder.mask_tokens")
_LORA = ("encoder.lora", "decoder.lora")


@dataclass(frozen=True)
class Variant:
    """What is trained, and the two choices that some methods tie to it.

    Attributes:
        train: Components, or groups of them (:mod:`fedsam.components`), that are trained; all else is frozen.
        rank: Rank of LoRA or FacT factors.
        upsampling: How many times finer than the image embedding the decoder's logits are: 16 (FLAP-SAM: the input's
            own resolution) or 4 (the published SAM: a quarter of it).
    """

    train: tuple[str, ...]
    rank: int = 32
    upsampling: int = 16

    def __post_init__(self) -> None:
        expand(self.train)
        if self.rank < 1:
            raise UsageError(f"model.rank must be at least 1, got {self.rank}")
        if self.upsampling not in {4, 16}:
            raise UsageError(f"model.upsampling must be 4 or 16, got {self.upsampling}")

    @property
    def components(self) -> frozenset[str]:
        """The components that are trained, groups resolved."""
        return expand(self.train)


VARIANTS = {
    "full": Variant(("encoder", "prompt", "decoder")),
    "attn": Variant(("encoder.attn", "decoder.attn", *_HEADS)),
    "attn_paper": Variant(("encoder.attn", "decoder.transformer")),
    "decoder": Variant(("decoder",)),
    "partial_decoder": Variant(_HEADS),
    "lora": Variant(_LORA),
    "lora_decoder": Variant((*_LORA, "decoder")),
    "flap": Variant((*_LORA, *_HEADS)),
    "masam": Variant(("encoder.fact", "encoder.adapters", "decoder", "prompt")),
    "samed": Variant(("encoder.lora", "decoder", "prompt"), rank=4, upsampling=4),
}
"""The rows of the paper's comparison. ``attn`` is the released code's name filter, which does not give the traffic that
the paper prints; ``attn_paper`` is a definition that does, with the random heads frozen."""


def variant_named(
    name: str, train: Sequence[str] | None = None, rank: int | None = None, upsampling: int | None = None
) -> Variant:
    """The preset ``name`` with what the user wants otherwise.

    Example:
        >>> variant_named("flap", rank=8).rank
        8

    Raises:
        UsageError: No such preset, or a value out of range.
    """
    if name not in VARIANTS:
        close = nearest(name, list(VARIANTS))
        raise UsageError(f"model.variant must be one of {', '.join(VARIANTS)}, got {name!r}" + (close and f"; {close}"))
    preset = VARIANTS[name]
    return replace(
        preset,
        train=preset.train if train is None else tuple(train),
        rank=preset.rank if rank is None else rank,
        upsampling=preset.upsampling if upsampling is None else upsampling,
    )
