"""Server rules: each takes the (clients, coordinates) matrix of one round and returns the update to subtract."""

from fedseca.aggregators.bulyan import Bulyan
from fedseca.aggregators.centered_clipping import CenteredClipping
from fedseca.aggregators.dnc import DnC
from fedseca.aggregators.dos import DOS
from fedseca.aggregators.fed_nga import FedNGA
from fedseca.aggregators.fedseca import FedSECA
from fedseca.aggregators.fldetector import FLDetector
from fedseca.aggregators.fltrust import FLTrust
from fedseca.aggregators.huber_mean import HuberMean
from fedseca.aggregators.krum import Krum
from fedseca.aggregators.meamed import MeaMed
from fedseca.aggregators.median import CoordinateMedian
from fedseca.aggregators.monna import MoNNA
from fedseca.aggregators.pre_aggregated import PreAggregated
from fedseca.aggregators.random_bucket_clipping import RandomBucketClipping
from fedseca.aggregators.rfa import RFA
from fedseca.aggregators.sequential_bucket_clipping import SequentialBucketClipping
from fedseca.aggregators.sign_guard import SignGuard
from fedseca.aggregators.sign_sgd import SignSGD
from fedseca.aggregators.ties import TIES
from fedseca.aggregators.trimmed_mean import TrimmedMean
from shared.federated.fedavg import FedAvg

__all__ = [
    "DOS",
    "RFA",
    "TIES",
    "Bulyan",
    "CenteredClipping",
    "CoordinateMedian",
    "DnC",
    "FLDetector",
    "FLTrust",
    "FedAvg",
    "FedNGA",
    "FedSECA",
    "HuberMean",
    "Krum",
    "MeaMed",
    "MoNNA",
    "PreAggregated",
    "RandomBucketClipping",
    "SequentialBucketClipping",
    "SignGuard",
    "SignSGD",
    "TrimmedMean",
]
