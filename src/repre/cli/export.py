"""`repre export`: export an encoder, or a fitted model, for other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.exporters import TARGETS
from repre.utils.image_size import Size
from repre.utils.printable_text import say

DESCRIPTION = """Export an encoder, load it back with the other library and compare the features. With --model
export encoder and head that `repre eval` fitted, to onnx or torch-export."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `repre export`."""

    encoder: Annotated[str | None, tyro.conf.arg(aliases=["--run"])] = None
    """A run, a checkpoint, a weights file, a timm name or random:NAME."""
    model: Path | None = None
    """Instead of an encoder: the result of an evaluation (.json), or the folder of the same name."""
    to: str | None = None
    """Target, one of those above. By default timm for an encoder, onnx for a model."""
    size: Size | None = None
    """Side of the images in pixels, or their height and width; None: the training size. Exported programs take only
    this size."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel in [0, 1], instead of what the weights expect. Give `std`, too."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every channel, instead of what the weights expect."""
    out: Path | None = None
    """New folder; by default exports/TARGET in the folder of the run or next to the model, or in the current folder."""


def main(arguments: Sequence[str]) -> int:
    targets = "\n".join(f"  {name}: {target.description}" for name, target in TARGETS.items())
    options = parse(ExportOptions, arguments, command="export", description=f"{DESCRIPTION}\n\nTargets:\n\n{targets}")
    exported = api.export(
        options.encoder,
        model=options.model,
        to=options.to,
        out=options.out,
        size=options.size,
        mean=options.mean,
        std=options.std,
    )
    say(f"written to {exported.path}; largest difference {exported.difference:.2g} of the largest value")
    return 0
