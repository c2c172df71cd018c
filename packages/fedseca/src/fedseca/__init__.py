"""Federated training that survives hostile clients (FedSECA, CVPR-W 2025)."""

__version__ = "0.1.0"
