"""Federated, parameter-efficient adaptation of SAM to 3D segmentation (FLAP-SAM)."""

__version__ = "0.1.0"
