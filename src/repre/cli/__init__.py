"""The command line: one file per command."""

from repre.cli.main import main

__all__ = ["main"]
