"""What a model is worth on captioned pictures: recall both ways, against captions cut short, and HiMo."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finelip.finelip import FineLIP
from finelip.himo import himo, prefixes
from finelip.ragged import joined
from finelip.scores import fuse_scores, global_scores
from finelip.tokenizer import EOS, cut_to_longest
from shared.metrics.retrieval import (
    Positions,
    TopK,
    recall_by_chance,
    recall_ratio_interval,
    retrieval_scores,
    streamed_positions,
)

TILE = (256, 256)
"""Images and texts that are scored at once."""

WAYS = ("i2t", "t2i")
HIMO_PARTS = {"himo@2": 2, "himo@3": 3, "himo@k": None}
PREFIXES_AT_ONCE = 64
LEAST_FOR_K = 4
"""Sentences from which HiMo@K counts a caption: with fewer it would be no correlation."""


def cut(ids: Tensor, lengths: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The texts as a model of fewer slots reads them: of longer ones the last slot is the end token.

    Args:
        ids: ``(B, L)``.
        lengths: ``(B,)``.
        slots: At least 2.

    Example:
        >>> ids, lengths = cut(torch.tensor([[1, 5, 6, EOS], [1, EOS, 0, 0]]), torch.tensor([4, 2]), 3)
        >>> ids.tolist() == [[1, 5, EOS], [1, EOS, 0]], lengths.tolist()
        (True, [3, 2])
    """
    ids = ids[:, :slots].clone()
    ids[lengths > slots, -1] = EOS
    return ids, lengths.clamp(max=slots)


@dataclass
class EncodedTexts:
    """Texts of an evaluation set, batch after batch, on the CPU."""

    vectors: list[Tensor] = field(default_factory=list)
    sets: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def add(self, model: FineLIP, ids: Tensor, lengths: Tensor) -> None:
        """Encode a batch."""
        text = model.encode_text(cut_to_longest(ids, lengths), lengths)
        self.vectors.append(text.vector.cpu())
        self.sets.append(text.tokens.cpu())
        self.masks.append(text.mask.cpu())


class EvaluationSet:
    """The pairs of an evaluation set as they come, and what they amount to.

    Captions of equal ``pair_id`` belong to one image, the first of that id. Memory is that of the sets; scores are made
    in tiles.

    Args:
        slots: Score the captions cut to so many slots too; ``None``: only whole.
        himo_captions: Measure HiMo on so many of the first captions.
    """

    def __init__(self, slots: int | None = None, himo_captions: int = 0) -> None:
        self.slots = slots
        self.himo_captions = himo_captions
        self.images: list[Tensor] = []
        self.image_sets: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.whole, self.short = EncodedTexts(), EncodedTexts()
        self.rising: dict[str, list[Tensor]] = {name: [] for name in HIMO_PARTS}
        self.read = 0

    @torch.no_grad()
    def add(self, model: FineLIP, batch: Mapping[str, Tensor]) -> None:
        """Encode a batch of the data."""
        image = model.encode_image(batch["image"])
        self.images.append(image.vector.cpu())
        self.image_sets.append(image.tokens.cpu())
        self.ids.append(batch["pair_id"].cpu())
        self.whole.add(model, batch["ids"], batch["lengths"])
        if self.slots is not None:
            self.short.add(model, *cut(batch["ids"], batch["lengths"], self.slots))
        wanted = max(0, min(len(image.vector), self.himo_captions - self.read))
        self.read += len(image.vector)
        if wanted:
            self._rise(model, image.vector[:wanted], batch["ids"][:wanted], batch["lengths"][:wanted])

    def _rise(self, model: FineLIP, images: Tensor, ids: Tensor, lengths: Tensor) -> None:
        """Cosines of images with growing prefixes of their captions, and whether they rise."""
        jobs: list[tuple[str, int, Tensor]] = []
        for row, length in enumerate(lengths.tolist()):
            for name, parts in HIMO_PARTS.items():
                texts = prefixes(ids[row].cpu(), length, parts)
                if texts is not None and (parts is not None or len(texts) >= LEAST_FOR_K):
                    jobs.append((name, row, texts))
        if not jobs:
            return
        texts = torch.cat([rows for _, _, rows in jobs])
        ends = (texts == EOS).int().argmax(1) + 1
        vectors = []
        for start in range(0, len(texts), PREFIXES_AT_ONCE):
            part = slice(start, start + PREFIXES_AT_ONCE)
            there, used = texts[part].to(images.device), ends[part].to(images.device)
            vectors.append(model.encode_text(cut_to_longest(there, used), used).vector)
        scores = iter(torch.cat(vectors).split([len(rows) for _, _, rows in jobs]))
        for (name, row, _), found in zip(jobs, scores, strict=True):
            self.rising[name].append(himo((found @ images[row])[None].cpu()))

    @torch.no_grad()
    def scores(self, model: FineLIP) -> dict[str, float]:
        """Recalls, ranks, their chance, ratios to the captions cut short with their intervals, HiMo.

        Names: ``global/t2i_r1``, ``fused/i2t_mean_rank``, ``chance/t2i_r1``; with cut captions ``cut77/global/t2i_r1``,
        and ``cut77/global/t2i_r1_ratio``, ``..._low``, ``..._high``: recall of the whole captions over that of the cut
        ones, with its 95 % bootstrap interval over images.
        """
        ids = torch.cat(self.ids)
        owner = torch.unique(ids, return_inverse=True)[1]
        first = torch.full((int(owner.max()) + 1,), len(ids)).scatter_reduce(0, owner, torch.arange(len(ids)), "amin")
        images, image_sets = torch.cat(self.images)[first], torch.cat(self.image_sets)[first]
        found: dict[str, float] = {}
        whole = self._positions(model, images, image_sets, self.whole, owner)
        short = {} if self.slots is None else self._positions(model, images, image_sets, self.short, owner)
        for kind, positions in whole.items():
            found |= named(kind, positions)
        for kind, positions in short.items():
            prefix = f"cut{self.slots}/{kind}"
            found |= named(prefix, positions)
            for way, ours, cuts, groups in zip(
                WAYS, whole[kind], positions, (torch.arange(len(first)), owner), strict=True
            ):
                ratio, low, high = recall_ratio_interval(ours, cuts, 1, groups)
                name = f"{prefix}/{way}_r1_ratio"
                found |= {name: ratio, f"{name}_low": low, f"{name}_high": high}
        per_image = round(len(owner) / len(first))
        for k in TopK:
            found[f"chance/i2t_r{k}"] = recall_by_chance(len(owner), k, per_image)
            found[f"chance/t2i_r{k}"] = recall_by_chance(len(first), k)
        for name, values in self.rising.items():
            if values:
                found[name] = float(torch.cat(values).mean())
                found[f"{name}_captions"] = float(len(values))
        return found

    def _positions(
        self, model: FineLIP, images: Tensor, image_sets: Tensor, texts: EncodedTexts, owner: Tensor
    ) -> dict[str, Positions]:
        """Positions of the true items by global and by fused score."""
        device = model.text_projection.device
        vectors = torch.cat(texts.vectors)
        text_sets, masks = joined(texts.sets, texts.masks)

        def coarse(rows: slice, columns: slice) -> Tensor:
            return global_scores(images[rows].to(device), vectors[columns].to(device)).cpu()

        def fused(rows: slice, columns: slice) -> Tensor:
            parts = (image_sets[rows], text_sets[columns], masks[columns])
            local = model.local_scores(*(part.to(device) for part in parts)).cpu()
            return fuse_scores(coarse(rows, columns), local, model.alpha)

        return {
            kind: streamed_positions(tile, owner, len(images), TILE)
            for kind, tile in (("global", coarse), ("fused", fused))
        }


def named(prefix: str, positions: Positions) -> dict[str, float]:
    """Recalls and ranks both ways under their names."""
    return {
        f"{prefix}/{way}_{name}": value
        for way, where in zip(WAYS, positions, strict=True)
        for name, value in retrieval_scores(where).items()
    }
