"""What the medley packages have in common."""

__version__ = "0.1.0"
