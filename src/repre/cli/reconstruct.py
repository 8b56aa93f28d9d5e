"""`repre reconstruct`: rebuild images from an encoder's features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.utils.printable_text import say

DESCRIPTION = """Rebuild images from an encoder's features. Write a PNG with the images in the
upper row and their reconstructions in the lower row.

Example:
  repre reconstruct --run runs/photos photos/1.jpg photos/2.jpg --out panel.png"""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Options of `repre reconstruct`."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    run: Path
    """Folder of a run with the reconstruction branch."""
    out: Path = Path("reconstruction.png")
    """PNG file to write."""
    checkpoint: Path | None = None
    """A checkpoint of the run; None uses the last."""


def main(arguments: Sequence[str]) -> int:
    options = parse(ReconstructOptions, arguments, command="reconstruct", description=DESCRIPTION)
    reconstruction = api.reconstruct(**vars(options))
    for path, psnr in zip(options.images, reconstruction.psnr):
        say(f"{path}: PSNR {psnr:.1f} dB")
    say(f"written to {reconstruction.path}")
    return 0
