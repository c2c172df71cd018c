"""What the losses have in common: they take the batch of all processes."""

from dataclasses import dataclass

from torch import Tensor, nn

from finelip.finelip import FineLIP
from finelip.scores import global_scores
from shared.distributed import whole_batch
from shared.errors import UsageError


@dataclass(frozen=True)
class EncodedBatch:
    """This process's share of a batch after the towers.

    Attributes:
        image_tokens: ``(B, 1 + P, D)`` projected tokens.
        text_tokens: ``(B, L, D)`` projected tokens of the long captions.
        lengths: ``(B,)`` used slots of the long captions.
        pair_id: ``(B,)``; equal for captions of one image.
        short_tokens: ``(B, L', D)`` of the short captions, where a loss uses them.
        short_lengths: ``(B,)`` likewise.
    """

    image_tokens: Tensor
    text_tokens: Tensor
    lengths: Tensor
    pair_id: Tensor
    short_tokens: Tensor | None = None
    short_lengths: Tensor | None = None

    def short(self) -> tuple[Tensor, Tensor]:
        """Tokens and lengths of the short captions.

        Raises:
            UsageError: The batch has none.
        """
        if self.short_tokens is None or self.short_lengths is None:
            raise UsageError("this loss needs short captions, and the data have none (short_ids)")
        return self.short_tokens, self.short_lengths


class Loss(nn.Module):
    """A loss of a whole batch.

    Under several processes each of them takes the same value, that of all pairs of all processes; the mean of their
    gradients is then the gradient of one process with the whole batch. All have as many pairs.

    Attributes:
        uses_short: Whether it looks at short captions.
        uses_sets: Whether it looks at refined sets; else the aggregators are not trained.
        uses_scale: Whether it has the model's temperature; else that is not trained.
    """

    uses_short = False
    uses_sets = False
    uses_scale = True

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        """The scalar loss, with gradient."""
        raise NotImplementedError


def local_scores_of_all(model: FineLIP, batch: EncodedBatch) -> Tensor:
    """``(B, B)`` local scores of all images with all texts; each process makes the columns of its own texts."""
    images = whole_batch(model.refine_image(batch.image_tokens).tokens)
    _, texts, mask = model.refine_text(batch.text_tokens, batch.lengths)
    return whole_batch(model.local_scores(images, texts, mask).T).T


def global_scores_of_all(model: FineLIP, batch: EncodedBatch) -> Tensor:
    """``(B, B)`` cosines of all images with all texts."""
    images = whole_batch(model.refine_image(batch.image_tokens).vector)
    texts = whole_batch(model.refine_text(batch.text_tokens, batch.lengths).vector)
    return global_scores(images, texts)
