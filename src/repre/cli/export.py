"""`repre export`: export an encoder for other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.exporters import TARGETS

DESCRIPTION = "Export an encoder, load it back with the other library and compare the features."


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `repre export`."""

    encoder: Annotated[str, tyro.conf.arg(aliases=["--run"])]
    """A run, a checkpoint, a weights file, a timm name or random:NAME."""
    to: str = "timm"
    """Target, one of those above."""
    out: Path | None = None
    """New folder; by default exports/TARGET in the folder of the run, or in the current folder."""


def main(arguments: Sequence[str]) -> int:
    targets = "\n".join(f"  {name}: {target.description}" for name, target in TARGETS.items())
    options = parse(ExportOptions, arguments, command="export", description=f"{DESCRIPTION} Targets:\n\n{targets}")
    exported = api.export(options.encoder, to=options.to, out=options.out)
    print(f"written to {exported.path}; largest difference {exported.difference:.2g} of the largest feature")
    return 0
