"""Measures the quality of any encoder on labeled data."""
