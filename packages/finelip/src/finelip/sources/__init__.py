"""Readers of pictures with captions."""
