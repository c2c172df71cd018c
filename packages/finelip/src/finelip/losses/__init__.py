"""What FineLIP is trained with, and what it is compared with."""

from finelip.losses.filip import FilipLoss
from finelip.losses.info_nce import GlobalInfoNCE, LocalInfoNCE
from finelip.losses.long_clip import LongClipLoss
from finelip.losses.loss import EncodedBatch, Loss
from finelip.losses.sparc import SparcLoss
from finelip.losses.triplet import TripletHinge

__all__ = [
    "EncodedBatch",
    "FilipLoss",
    "GlobalInfoNCE",
    "LocalInfoNCE",
    "LongClipLoss",
    "Loss",
    "SparcLoss",
    "TripletHinge",
]
