"""Rebuild given images with the model of a run."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repre.data.io.decode import UnreadableImage, read_image
from repre.data.loading.loader import stack
from repre.data.views.render import center_view, denormalize
from repre.errors import UserError
from repre.models.resolve import load_model
from repre.training.monitoring.reconstructions import borrow_patch_statistics, row_of_images
from repre.utils.io import write_atomically


def reconstruct(images: tuple[Path, ...], *, run: Path, out: Path, checkpoint: Path | None = None) -> list[float]:
    """Writes a PNG with the images above their reconstructions; gives the PSNR of each in dB.

    Raises UserError for an unreadable image, a folder without a run, or a run without the branch.
    """
    if not images:
        raise UserError("name at least one image")
    model, config = load_model(run, checkpoint=checkpoint)
    decoded = []
    for path in images:
        try:
            decoded.append(read_image(path, channels=config.encoder.channels, canvas=config.decode_size))
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    pixels, sizes = stack(decoded, canvas=config.decode_size, keep_values=config.views.value_range is not None)
    shown = center_view(pixels, sizes, size=config.views.size, config=config.views)
    rebuilt = model.reconstruct(shown)
    if config.reconstruction.patch_norm:
        rebuilt = borrow_patch_statistics(rebuilt, shown, config.reconstruction.patch_norm)
    above, below = denormalize(shown, config.views), denormalize(rebuilt, config.views).clamp(0, 1)
    panel = np.concatenate([row_of_images(above), row_of_images(below)])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: Image.fromarray(panel).save(file, format="PNG"))
    errors = (above - below).square().mean((1, 2, 3))
    return [float(value) for value in -10 * torch.log10(errors + 1e-10)]
