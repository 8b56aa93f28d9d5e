"""Reconstructs image files with the model of a run."""

from pathlib import Path

import torch

from repre.data.io.decode import UnreadableImage, read_image
from repre.data.loading.loader import stack
from repre.data.views.render import center_view
from repre.errors import UserError
from repre.models.needs import fit_masks
from repre.models.resolve import load_model
from repre.training.monitoring.reconstructions import psnr, rebuild, save_panel


def reconstruct(images: tuple[Path, ...], *, run: Path, out: Path, checkpoint: Path | None = None) -> list[float]:
    """Writes a PNG with the images in the upper row and their reconstructions in the lower row, as `rebuild` makes them.

    Args:
        images: image files, at least one.
        run: folder of a run with the reconstruction branch.
        out: the PNG.
        checkpoint: file to load instead of the run's last checkpoint.

    Returns:
        The PSNR of each reconstruction, in dB.

    Raises:
        UserError: an image cannot be read, the folder holds no run, or the run has no reconstruction branch.
    """
    if not images:
        raise UserError("name at least one image")
    model, config = load_model(run, checkpoint=checkpoint)
    decoded = []
    for path in images:
        try:
            raw = config.views.value_range is not None
            decoded.append(
                read_image(path, channels=config.encoder.channels, canvas=config.decode_size, raw_values=raw)
            )
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    pixels, sizes = stack(decoded)
    view = center_view(pixels, sizes, size=config.views.shape, config=config.views)
    views = fit_masks(config.rendered_views, model.encoder, model.framework.needs)
    pictures = rebuild(model, view, views=views, device=torch.device("cpu"))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_panel(*pictures, out)
    return psnr(*pictures).tolist()
