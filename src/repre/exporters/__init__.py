"""Exports encoders: writes one, loads it back with the other library, and compares the features."""

from repre.exporters.exporter import TARGETS, Exported, export

__all__ = ["TARGETS", "Exported", "export"]
