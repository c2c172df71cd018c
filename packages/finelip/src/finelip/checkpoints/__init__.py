"""Weights of CLIP, Long-CLIP and FineLIP in the layouts in which they are published, in and out."""
