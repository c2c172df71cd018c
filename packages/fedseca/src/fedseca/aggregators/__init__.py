"""Server rules: each takes the (clients, coordinates) matrix of one round and returns the update to subtract."""

from fedseca.aggregators.centered_clipping import CenteredClipping
from fedseca.aggregators.fedseca import FedSECA
from fedseca.aggregators.krum import Krum
from fedseca.aggregators.median import CoordinateMedian
from fedseca.aggregators.trimmed_mean import TrimmedMean
from shared.federated.fedavg import FedAvg

__all__ = ["CenteredClipping", "CoordinateMedian", "FedAvg", "FedSECA", "Krum", "TrimmedMean"]
