"""Sections of the page of benchmarks, a file for each field."""
