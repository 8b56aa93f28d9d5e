"""Exports encoders and fitted models: writes one, loads it back with the other library, and compares what it computes."""

from repre.exporters.exporter import TARGETS, Exported, export
from repre.exporters.fitted_export import export_fitted

__all__ = ["TARGETS", "Exported", "export", "export_fitted"]
