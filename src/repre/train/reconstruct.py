"""Rebuild given images with the model of a run."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repre.checkpoint import load_checkpoint, write_atomically
from repre.config import RunConfig, from_dict
from repre.data.images import UnreadableImage, read_image
from repre.data.loader import stack
from repre.data.views import centre_view, denormalise
from repre.errors import UserError
from repre.model import RePre, build_model
from repre.train.monitors import borrow_patch_statistics, row_of_images
from repre.train.run_folder import RunFolder


def load_model(run: Path, *, checkpoint: Path | None = None) -> tuple[RePre, RunConfig]:
    """The whole model of a run (encoder, framework, decoder) at its last or another checkpoint, in evaluation mode."""
    folder = RunFolder(run)
    if checkpoint is None and not folder.last.is_file():
        raise UserError(f"{run} holds no run with a checkpoint; give the --out folder of repre pretrain")
    path = checkpoint or folder.last
    state = load_checkpoint(path)
    if "model" not in state:
        raise UserError(f"{path} holds an encoder only; use checkpoints/last.pt")
    config = from_dict(RunConfig, state["config"], where=path.name)
    model = build_model(
        encoder=config.encoder_at_size,
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=config.seed,
    )
    model.load_state_dict(state["model"])
    return model.eval(), config


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
            decoded.append(read_image(path, channels=config.encoder.channels, canvas=config.canvas))
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    pixels, sizes = stack(decoded, canvas=config.canvas, keep_values=config.views.value_range is not None)
    shown = centre_view(pixels, sizes, size=config.views.size, config=config.views)
    rebuilt = model.reconstruct(shown)
    if config.reconstruction.patch_norm:
        rebuilt = borrow_patch_statistics(rebuilt, shown, config.reconstruction.patch_norm)
    above, below = denormalise(shown, config.views), denormalise(rebuilt, config.views).clamp(0, 1)
    panel = np.concatenate([row_of_images(above), row_of_images(below)])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: Image.fromarray(panel).save(file, format="PNG"))
    errors = (above - below).square().mean((1, 2, 3))
    return [float(value) for value in -10 * torch.log10(errors + 1e-10)]
