"""Depth of every pixel."""
