"""Projection and prediction heads with the layers and biases of the reference."""

from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead, MoCoProjectionHead, ProjectionHead
from torch import nn

from shared.errors import UsageError


def check_widths(hidden: int, width: int) -> None:
    """Refuse layers without units.

    Raises:
        UsageError: Names the option of the method.
    """
    for option, value in (("hidden", hidden), ("width", width)):
        if value < 1:
            raise UsageError(f"model.method.{option} must be at least 1, got {value}")


def infomax_projector(width: int, hidden: int = 8192, out: int = 8192) -> nn.Module:
    """Head of Barlow Twins and VICReg: three linear layers without bias, BatchNorm and ReLU between them.

    lightly's ``BarlowTwinsProjectionHead`` has a bias in the last layer, so the blocks are named here.

    Example:
        >>> sum(p.numel() for p in infomax_projector(512, 64, 32).parameters())
        39168
    """
    check_widths(hidden, out)
    return ProjectionHead(
        [
            (width, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), False),
            (hidden, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), False),
            (hidden, out, None, None, False),
        ]
    )


def simclr_projector(width: int, hidden: int = 512, out: int = 128) -> nn.Module:
    """Head of SimCLR: two linear layers with bias, BatchNorm and ReLU between them, none at the end."""
    check_widths(hidden, out)
    return ProjectionHead([(width, hidden, nn.BatchNorm1d(hidden), nn.ReLU(), True), (hidden, out, None, None, True)])


def moco_projector(width: int, hidden: int = 2048, out: int = 128) -> nn.Module:
    """Head of MoCo: two linear layers with bias and ReLU between them, no BatchNorm."""
    check_widths(hidden, out)
    return MoCoProjectionHead(width, hidden, out)


def byol_projector(width: int, hidden: int = 1024, out: int = 256) -> nn.Module:
    """Head of BYOL: linear without bias, BatchNorm, ReLU, linear with bias."""
    check_widths(hidden, out)
    return BYOLProjectionHead(width, hidden, out)


def byol_predictor(width: int = 256, hidden: int = 1024) -> nn.Module:
    """BYOL's predictor: the layers of :func:`byol_projector`, as wide at the end as at the start."""
    return BYOLPredictionHead(width, hidden, width)


def sup_con_projector(width: int, hidden: int = 512, out: int = 128) -> nn.Module:
    """Head of the supervised contrastive term: two linear layers with bias and ReLU between them."""
    return MoCoProjectionHead(width, hidden, out)
