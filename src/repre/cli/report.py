"""`repre report`: write an HTML report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.utils.printable_text import say

DESCRIPTION = """Write an HTML report about a run, finished or not, or about several runs side by
side. It opens offline.

Examples:
  repre report runs/photos
  repre report runs/a runs/b --out both.html"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `repre report`."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs."""
    out: Path | None = None
    """HTML file; by default report.html in the run's folder, or in the current folder for several runs."""


def main(arguments: Sequence[str]) -> int:
    options = parse(ReportOptions, arguments, command="report", description=DESCRIPTION)
    say(f"written to {api.report(options.runs, out=options.out)}")
    return 0
