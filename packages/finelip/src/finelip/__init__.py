"""CLIP that reads long captions: stretched text positions, refined tokens on both sides, late interaction."""

__version__ = "0.1.0"
