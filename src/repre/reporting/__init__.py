"""The report: one self-contained HTML page of a run, or of several side by side. Reads files only, imports no model code."""

from repre.reporting.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
