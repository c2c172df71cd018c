"""Self-supervised pretraining on ultrasound video, and what it brings to the classification of few labelled planes."""

__version__ = "0.1.0"
