"""SAM adapted to automatic segmentation of volumes, slice by slice: FLAP-SAM and its relatives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from fedsam.components import ADDED, COMPONENTS, component_of
from fedsam.dora import Axis
from fedsam.image_encoder import AttentionKind, ImageEncoder
from fedsam.lora import LoraOptions, QueryValueLora
from fedsam.lora_products import is_factor_a
from fedsam.mask_decoder import MaskDecoder
from fedsam.sam_checkpoint import initialise
from fedsam.sizes import size_named
from fedsam.variants import variant_named
from shared.errors import UsageError


@dataclass(frozen=True)
class Component:
    """A row of the table of components.

    Attributes:
        name: See :mod:`fedsam.components`.
        parameters: Numbers in it.
        trainable: Numbers that are trained: all or none of them, but for LoRA with frozen factors A.
        bytes: What its parameters take.
    """

    name: str
    parameters: int
    trainable: int
    bytes: int


class Sam(nn.Module):
    """SAM without prompts: images to logits of C + 1 classes.

    Encoder, prompt encoder and two-way transformer are those of ``segment_anything``, with the same names, so published
    weights fit. The decoder has one mask token per class, background first, and (``upsampling`` 16) logits at the
    input's resolution. ``requires_grad`` of each parameter says whether the variant trains it.

    Args:
        size: ``tiny``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: Side S of the images in pixels, a multiple of 16.
        num_classes: Foreground classes C.
        variant: Preset of :data:`fedsam.variants.VARIANTS`.
        train: Components to train in place of the preset's; see :mod:`fedsam.components`.
        rank: Rank of LoRA or FacT in place of the preset's.
        upsampling: 4 or 16, in place of the preset's.
        alpha: Plain multiplier of LoRA.
        lora_init: ``zero_b`` (training starts from the pre-trained function) or ``reference`` (A and B both random).
        num_lora: Parallel LoRA pairs per projection; their mixing weights stay with each client.
        dora: Train the norms of adapted weights apart: per input ``column``, per output ``row``, or not at all.
        fact_dropout: Dropout inside FacT.
        adapter_channels: Width of the adapters between slices.
        attention: ``sdpa``, a fused kernel of little memory, or ``reference``, the published formula.
        init: ``random``, ``tiny`` (the shipped weights of that size), or the path of a SAM checkpoint.
        head_init: What a checkpoint gives to the heads that differ from SAM's: ``reference``, every tensor whose name
            and shape agree, as in the authors' code; or ``fresh``, nothing.

    Raises:
        UsageError: A value out of range, or a checkpoint that does not fit.

    Example:
        >>> with torch.device("meta"):
        ...     model = Sam("vit_b", 224, 2, "flap")
        >>> model.trainable_numbers()
        1846384
        >>> model(torch.empty(5, 3, 224, 224, device="meta")).shape
        torch.Size([5, 3, 224, 224])
    """

    def __init__(
        self,
        size: str = "vit_b",
        image_size: int = 224,
        num_classes: int = 1,
        variant: str = "flap",
        train: Sequence[str] | None = None,
        rank: int | None = None,
        upsampling: Literal[4, 16] | None = None,
        alpha: float = 1.0,
        lora_init: Literal["zero_b", "reference"] = "zero_b",
        num_lora: int = 1,
        dora: Axis | None = None,
        fact_dropout: float = 0.1,
        adapter_channels: int = 384,
        attention: AttentionKind = "sdpa",
        init: str = "random",
        head_init: Literal["reference", "fresh"] = "reference",
    ) -> None:
        super().__init__()
        measures = size_named(size)
        if image_size < measures.patch or image_size % measures.patch:
            raise UsageError(f"model.image_size must be a multiple of {measures.patch}, got {image_size}")
        if num_classes < 1:
            raise UsageError(f"model.num_classes must be at least 1, got {num_classes}")
        if not 0 <= fact_dropout < 1:
            raise UsageError(f"model.fact_dropout must be at least 0 and below 1, got {fact_dropout}")
        if adapter_channels < 1:
            raise UsageError(f"model.adapter_channels must be at least 1, got {adapter_channels}")
        if attention not in {"sdpa", "reference"}:
            raise UsageError(f"model.attention must be sdpa or reference, got {attention!r}")
        self.size, self.measures = size, measures
        self.image_size, self.num_classes = image_size, num_classes
        self.variant = variant
        self.plan = variant_named(variant, train, rank, upsampling)
        self.lora = LoraOptions(self.plan.rank, alpha, lora_init, num_lora, dora)
        self.fact_dropout, self.adapter_channels, self.attention = fact_dropout, adapter_channels, attention
        self.trains_a = True
        self.pretrained: Literal["none", "self", "file"] = "none"
        self.weights_sha256: str | None = None

        grid = image_size // measures.patch
        self.image_encoder = ImageEncoder(measures, image_size, attention)
        self.prompt_encoder = PromptEncoder(measures.prompt_width, (grid, grid), (image_size, image_size), 16)
        self.mask_decoder = MaskDecoder(measures, num_classes + 1, self.plan.upsampling)
        trained = self.plan.components
        for part, component in ((self.image_encoder, "encoder.lora"), (self.mask_decoder, "decoder.lora")):
            if component in trained:
                for module in part.modules():
                    if isinstance(module, QueryValueLora):
                        module.add_lora(self.lora)
        if "encoder.fact" in trained:
            self.image_encoder.add_fact(self.plan.rank, fact_dropout)
        if "encoder.adapters" in trained:
            self.image_encoder.add_adapters(adapter_channels)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(component_of(name) in trained)
        if init != "random":
            initialise(self, init, head_init)

    # ------------------------------------------------------------------ the function

    def embed(self, images: Tensor, slices: int = 1) -> Tensor:
        """Image embeddings (N, prompt width, S/16, S/16) of images (N, 3, S, S)."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise UsageError(f"images must be (N, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        return self.image_encoder(images, slices)

    def decode(
        self,
        embeddings: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of embedded images, without prompts or with one set of SAM's prompts per image.

        Args:
            embeddings: (N, prompt width, S/16, S/16).
            points: Coordinates (N, n, 2) in pixels, x first, and labels (N, n): 1 inside, 0 outside, -1 none.
            boxes: (N, 4): x and y of one corner, then of the other, in pixels.
            masks: Logits (N, 1, S/4, S/4) of an earlier answer.

        Returns:
            Logits (N, C + 1, S/u, S/u) with u = 16 / ``upsampling``, and predicted overlaps (N, C + 1).
        """
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return self.mask_decoder(embeddings, self.prompt_encoder.get_dense_pe(), sparse, dense)

    def low_res_logits(self, images: Tensor, slices: int = 1) -> Tensor:
        """Logits as the decoder gives them: (N, C + 1, S, S) or, with ``upsampling`` 4, (N, C + 1, S/4, S/4)."""
        return self.decode(self.embed(images, slices))[0]

    def forward(self, images: Tensor, slices: int = 1) -> Tensor:
        """Logits (N, C + 1, S, S) of images (N, 3, S, S) with values in [0, 1].

        Args:
            images: The images. Where ``slice_wise`` is false N = B * ``slices``, the slices of a sample in a row.
            slices: Neighbouring slices per sample; slice-wise models ignore it.
        """
        logits = self.low_res_logits(images, slices)
        if logits.shape[-1] == self.image_size:
            return logits
        return F.interpolate(logits, (self.image_size, self.image_size), mode="bilinear", align_corners=False)

    @property
    def slice_wise(self) -> bool:
        """Whether each slice is treated alone; adapters mix neighbouring slices."""
        return "encoder.adapters" not in self.plan.components

    # ------------------------------------------------------------------ what is trained and what travels

    def personal_names(self) -> list[str]:
        """Keys of trained tensors that stay with each client: the weights that mix parallel LoRA pairs."""
        return [name for name, _ in self.named_parameters() if name.endswith(".lora_scale")]

    def trainable_names(self) -> list[str]:
        """Keys of the trained tensors that travel, in the order of the state dict."""
        # By component, not by requires_grad: a federation freezes the copy that the server keeps.
        personal, trained = set(self.personal_names()), self.plan.components
        return [
            name
            for name, _ in self.named_parameters()
            if component_of(name) in trained and name not in personal and (self.trains_a or not is_factor_a(name))
        ]

    def freeze_lora_a(self) -> None:
        """Leave the LoRA factors A as they were drawn: neither trained nor sent (FFA-LoRA)."""
        self.trains_a = False
        for name, parameter in self.named_parameters():
            if is_factor_a(name):
                parameter.requires_grad_(False)

    def trainable_numbers(self) -> int:
        """How many numbers travel."""
        parameters = dict(self.named_parameters())
        return sum(parameters[name].numel() for name in self.trainable_names())

    def components(self) -> list[Component]:
        """The components that this model has: their numbers, how many are trained, their bytes."""
        rows = {name: [0, 0, 0] for name in COMPONENTS}
        for name, p in self.named_parameters():
            component = component_of(name)
            row = rows[component]
            row[0] += p.numel()
            row[1] += p.numel() if component in self.plan.components and (self.trains_a or not is_factor_a(name)) else 0
            row[2] += p.numel() * p.element_size()
        return [Component(name, *row) for name, row in rows.items() if row[0]]

    def drawn_lora_scales(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Mixing weights drawn from U(0, 1), as each client draws its own before its first round."""
        return {name: torch.rand(self.get_parameter(name).shape, generator=generator) for name in self.personal_names()}

    def reset_magnitudes(self) -> None:
        """Set DoRA's norms to those of the weights as they stand; needed after other weights were loaded."""
        for _, module in self.adapted_modules():
            module.reset_magnitudes()

    def adapted_modules(self) -> Iterator[tuple[str, QueryValueLora]]:
        """Attention modules of encoder and decoder, with their names."""
        for name, module in self.named_modules():
            if isinstance(module, QueryValueLora):
                yield name, module

    def merged_arguments(self) -> dict[str, Any]:
        """Arguments that build the same model without LoRA and FacT, which :func:`fedsam.export.merged_state` fits."""
        return {
            "size": self.size,
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "train": sorted(self.plan.components - ADDED | self.plan.components & {"encoder.adapters"}),
            "upsampling": self.plan.upsampling,
            "adapter_channels": self.adapter_channels,
            "attention": self.attention,
        }

    def describe(self) -> dict[str, Any]:
        """What ``results.json`` says about the model."""
        told: dict[str, Any] = {
            "network": f"SAM {self.size}",
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "variant": self.variant,
            "train": sorted(self.plan.components),
            "rank": self.plan.rank,
            "upsampling": self.plan.upsampling,
            "trainable": self.trainable_numbers(),
            "pretrained": self.pretrained,
        }
        return told if self.weights_sha256 is None else told | {"weights_sha256": self.weights_sha256}
