"""Label-free looks at the encoder on a fixed sample, and the reconstruction panel. They never touch the training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repre.data.images import UnreadableImage
from repre.data.loader import stack
from repre.data.sources import Source
from repre.data.views import ViewsConfig, centre_view, denormalise
from repre.encoder import Encoder
from repre.errors import RunError
from repre.model import RePre


def fixed_sample(source: Source, *, count: int, canvas: int, views: ViewsConfig) -> Tensor:
    """Up to `count` images, evenly spread over the source, as plain centre views on the CPU: [N, C, S, S]."""
    found = []
    for index in np.linspace(0, len(source) - 1, min(count, len(source))).astype(int):
        try:
            image = source.load(int(index))
        except UnreadableImage:
            continue  # counted and listed when training meets it
        pixels, sizes = stack([image], canvas=canvas, keep_values=views.value_range is not None)
        found.append(centre_view(pixels, sizes, size=views.size, config=views))
    if not found:
        raise RunError(f"none of {min(count, len(source))} sampled images of {source.spec} can be read")
    return torch.cat(found)


@torch.no_grad()
def embed(encoder: Encoder, images: Tensor, *, device: torch.device, batch: int = 128) -> Tensor:
    """Embeddings [N, D] of images, in evaluation mode, on the CPU; the encoder's mode is put back."""
    mode = encoder.training
    encoder.eval()
    try:
        return torch.cat([encoder(part.to(device), maps=False).embedding.float().cpu() for part in images.split(batch)])
    finally:
        encoder.train(mode)


def label_free(embeddings: Tensor) -> dict[str, float]:
    """Health of embeddings [N, D] without labels.

    rankme: effective rank, exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023,
        arXiv 2210.02885, equation 1); near 1 is collapse, higher is better within one kind of run.
    embedding_std: mean over dimensions of the standard deviation of the normalised embeddings, times the square root of
        D; 0 is collapse, 1 is uniform on the sphere.
    """
    values = torch.linalg.svdvals(embeddings.double())
    shares = values / values.sum() + 1e-7
    normalised = torch.nn.functional.normalize(embeddings.double(), dim=1)
    return {
        "rankme": float(torch.exp(-(shares * shares.log()).sum())),
        "embedding_std": float(normalised.std(0).mean() * embeddings.shape[1] ** 0.5),
    }


@torch.no_grad()
def save_panel(model: RePre, images: Tensor, path: Path, *, views: ViewsConfig, device: torch.device) -> None:
    """Writes a PNG with the images [N, C, S, S] in the upper row and their reconstructions in the lower one."""
    mode = model.training
    model.eval()
    try:
        rebuilt = model.reconstruct(images.to(device)).float().cpu()
    finally:
        model.train(mode)
    if model.reconstruction.patch_norm:
        rebuilt = borrow_patch_statistics(rebuilt, images, model.reconstruction.patch_norm)
    rows = [row_of_images(denormalise(row, views)) for row in (images, rebuilt)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def borrow_patch_statistics(rebuilt: Tensor, images: Tensor, patch: int) -> Tensor:
    """Gives normalised patches [B, C, H, W] the mean and spread of the images' patches, so that they can be seen."""
    b, c, h, w = images.shape
    shape = (b, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(images.reshape(shape), dim=(1, 3, 5), keepdim=True, correction=0)
    return (rebuilt.reshape(shape) * (variance + 1e-6).sqrt() + mean).reshape(b, c, h, w)


def row_of_images(images: Tensor, *, least: int = 128, gap: int = 4) -> np.ndarray:
    """Images [N, C, S, S] in [0, 1] side by side as uint8 [H, W, 3]; small ones enlarged to at least `least` pixels."""
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    times = -(-least // images.shape[-1])
    images = images.clamp(0, 1).repeat_interleave(times, 2).repeat_interleave(times, 3)
    images = torch.nn.functional.pad(images, (gap // 2,) * 4, value=1.0)
    return (torch.cat(list(images), dim=2).permute(1, 2, 0) * 255).round().byte().numpy()
