"""Pictures and quantized features of a few fixed images, which the report shows without loading the model.

RUN/snapshots/features.npz holds, for the first N = 12 images of the monitors' sample (fewer if the sample is smaller):

    images            uint8 [N, S, S, 3]       the images
    rebuilt           uint8 [N, S, S, 3]       their reconstructions; absent without the reconstruction branch
    rebuilt_level_i   uint8 [N, S, S, 3]       reconstructions from level i alone, the other levels' maps set to their mean
    pca_level_i       uint8 [N, h_i, w_i, 3]   first three principal components of level i's map over all N images, as colors
    patches           int8 [N, h, w, d <= 32]  last level's patch features on their first components, L2-normalized, x 127
    neighbors         int32 [N, k <= 6]        index in the sample of the nearest other images, by cosine of embeddings
    neighbor_cosines  float32 [N, k]           those cosines
    neighbor_images   uint8 [N, k, 64, 64, 3]  thumbnails of the neighbors

S is the side of the global views, at most 256. If the file would exceed 6 MB, the pictures lose their lowest bits.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.render import denormalize
from repre.data.views.view_recipes import ViewsConfig
from repre.models.repre import RePre
from repre.training.monitoring.label_free import embed, isolated_evaluation, maps_of
from repre.training.monitoring.reconstructions import rebuild, rebuild_from_level, to_pictures, to_rgb, to_uint8
from repre.utils.image_size import resize_to, shrink
from repre.utils.io import write_atomically

IMAGES, NEIGHBORS, COMPONENTS = 12, 6, 32
THUMBNAIL_SIDE, MAX_SIDE = 64, 256
"""Sides of the neighbors' images and of all other pictures, in pixels."""
MAX_BYTES = 6_000_000
"""Size of the file."""


def save_snapshots(model: RePre, images: Tensor, path: Path, *, views: ViewsConfig, device: torch.device) -> None:
    """Writes the file; the same model and images give the same bytes.

    Args:
        images: the monitors' normalized images, [M, C, H, W].

    Raises:
        RunError: the file cannot be written.
    """
    with isolated_evaluation(model, device):
        content = to_npz(snapshot_arrays(model, images, views=views, device=device))
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def snapshot_arrays(model: RePre, images: Tensor, *, views: ViewsConfig, device: torch.device) -> dict[str, np.ndarray]:
    """Computes the arrays of the file with a model in evaluation mode."""
    first = images[:IMAGES]
    arrays = {"images": to_picture(denormalize(first, views))}
    if model.decoder is not None:
        maps, size = maps_of(model.encoder, first, device=device), first.shape[-2:]
        arrays["rebuilt"] = to_picture(rebuild(model, first, views=views, device=device)[1])
        for level in model.decoder.levels:
            rebuilt = rebuild_from_level(model.decoder, maps, level, size).float().cpu()
            arrays[f"rebuilt_level_{level}"] = to_picture(to_pictures(rebuilt, first, model, views))
    export_maps = [level.float().cpu() for level in maps_of(model.export_encoder, first, device=device, norm=True)]
    for level, level_map in enumerate(export_maps):
        arrays[f"pca_level_{level}"] = pca_colors(level_map)
    arrays["patches"] = quantized_patches(export_maps[-1])
    return arrays | nearest_neighbors(embed(model.export_encoder, images, device=device), images, views=views)


def to_picture(images: Tensor) -> np.ndarray:
    """Images [N, C, H, W] in [0, 1] as uint8 [N, h, w, 3], shrunk to at most `MAX_SIDE` pixels a side."""
    return to_uint8(to_rgb(shrink(images, MAX_SIDE)))


def principal_components(maps: Tensor, count: int) -> Tensor:
    """Projects the patch features of maps [N, C, h, w] on their first principal components over all patches.

    The largest weight of each component is positive; otherwise its sign would be arbitrary.

    Returns:
        float64 [N, h, w, d], where d is the smaller of `count` and C.
    """
    n, c, h, w = maps.shape
    patches = maps.movedim(1, -1).reshape(-1, c).double()
    patches = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(patches.mT @ patches)
    vectors = vectors.flip(1)[:, :count]  # [C, d], the largest variance first
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (patches @ (vectors * largest.sign())).view(n, h, w, -1)


def pca_colors(maps: Tensor) -> np.ndarray:
    """The first three principal components of maps [N, C, h, w] as colors, uint8 [N, h, w, 3].

    In each component, the 1st percentile becomes 0 and the 99th becomes 255.
    """
    projected = principal_components(maps, 3)
    components = F.pad(projected, (0, 3 - projected.shape[-1])).numpy()
    low, high = np.quantile(components.reshape(-1, 3), (0.01, 0.99), axis=0)
    return np.round(np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def quantized_patches(maps: Tensor) -> np.ndarray:
    """Patch features of maps [N, C, h, w] on their first components, scaled to length 127: int8 [N, h, w, d]."""
    return (F.normalize(principal_components(maps, COMPONENTS), dim=-1) * 127).round().to(torch.int8).numpy()


def nearest_neighbors(embeddings: Tensor, images: Tensor, *, views: ViewsConfig) -> dict[str, np.ndarray]:
    """Finds the nearest other images of the first `IMAGES`: the three neighbor arrays of the file.

    Args:
        embeddings: [M, D].
        images: the normalized images of these embeddings, [M, C, H, W].
    """
    normalized = F.normalize(embeddings.double(), dim=1)
    cosines = normalized[:IMAGES] @ normalized.T  # [N, M]
    cosines.fill_diagonal_(-2.0)
    indices = cosines.argsort(dim=1, descending=True, stable=True)[:, : min(NEIGHBORS, len(images) - 1)]
    pictures = to_rgb(denormalize(images[indices.flatten()], views))
    thumbnails = to_uint8(resize_to(pictures, THUMBNAIL_SIDE))
    return {
        "neighbors": indices.numpy().astype(np.int32),
        "neighbor_cosines": cosines.gather(1, indices).numpy().astype(np.float32),
        "neighbor_images": thumbnails.reshape(*indices.shape, *thumbnails.shape[1:]),
    }


def to_npz(arrays: dict[str, np.ndarray], *, max_bytes: int = MAX_BYTES) -> bytes:
    """Compresses the arrays to the content of an .npz file; the uint8 arrays lose low bits until it fits `max_bytes`."""
    for bits in range(8, 0, -1):
        mask = np.uint8(256 - 2 ** (8 - bits))
        rounded = {name: array & mask if array.dtype == np.uint8 else array for name, array in arrays.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **rounded)  # type: ignore[arg-type]
        if file.tell() <= max_bytes:
            break
    return file.getvalue()
