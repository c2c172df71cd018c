"""Rounds with nodes that send back what they get."""
