"""Metrics, one definition for the whole house."""
