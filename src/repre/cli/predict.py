"""`repre predict`: classes, masks, depth or boxes of images by a model that an evaluation fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.data.io.file_choice import FileChoice
from repre.errors import UserError
from repre.evaluation.fitted.fitted_model import PredictOptions
from repre.utils.printable_text import say

DESCRIPTION = """Predict images with a model that `repre eval linear`, finetune, segment, depth or detect fitted.
Run the same command again to resume.

Examples:
  repre predict --model runs/photos/evaluations/linear-1f0c2a9b3d4e.json photos/ --out predictions
  repre predict --model runs/photos/evaluations/segment-0a1b2c3d4e5f photos/ --out masks --overlays -1"""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Options of `repre predict`."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """A folder, image files, or anything else that --data of pretrain takes."""
    model: Path
    """The result of an evaluation (.json), or the folder of the same name."""
    out: Path = Path("predictions")
    """New folder; or one that the same command began."""
    choice: Annotated[FileChoice, tyro.conf.arg(name="")] = field(default_factory=FileChoice)
    """Which files are used."""
    config: Annotated[PredictOptions, tyro.conf.arg(name="")] = field(default_factory=PredictOptions)
    """What is written, and where it is computed."""


def main(arguments: Sequence[str]) -> int:
    options = parse(PredictCommand, arguments, command="predict", description=DESCRIPTION)
    if not options.images:
        raise UserError("predict needs images: a folder, image files, or anything else that --data of pretrain takes")
    images = options.images[0] if len(options.images) == 1 else options.images
    predictions = api.predict(options.model, images, out=options.out, choice=options.choice, config=options.config)
    say(f"{predictions.count} images predicted; written to {predictions.path}")
    if predictions.unreadable is not None:
        count = len(predictions.unreadable.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
        say(f"{count} file{'s' if count > 1 else ''} could not be read; see {predictions.unreadable}")
    return 0
