"""The evidence: what is measured, and its results."""
