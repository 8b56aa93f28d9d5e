"""A few pictures and quantized features of fixed images, which the report shows without knowing the model.

RUN/snapshots/features.npz, of N = 12 images of the monitors' sample (fewer where it has fewer):

    images            uint8 [N, S, S, 3]       the images
    rebuilt           uint8 [N, S, S, 3]       their reconstruction; absent without the branch
    rebuilt_level_i   uint8 [N, S, S, 3]       rebuilt from level i alone, the others' maps set to their mean
    pca_level_i       uint8 [N, h_i, w_i, 3]   three principal components of level i's map over all N images, as colors
    patches           int8 [N, h, w, d <= 32]  last level's patch features on their first components, L2-normalized, x 127
    neighbors        int32 [N, k <= 6]        places in the sample of the nearest other images by cosine of embeddings
    neighbor_cosines float32 [N, k]
    neighbor_images  uint8 [N, k, 64, 64, 3]

S is the side of the global views, at most 256. Pictures that would make the file larger than 6 MB lose their lowest bits.
"""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.render import ViewsConfig, denormalize
from repre.models.repre import RePre
from repre.training.monitoring.label_free import embed, isolated_evaluation
from repre.training.monitoring.reconstructions import as_bytes, as_pictures, from_one_level, three_channels
from repre.utils.io import write_atomically

IMAGES, NEIGHBORS, COMPONENTS = 12, 6, 32
THUMBNAIL, LARGEST = 64, 256
LIMIT = 6_000_000
"""Bytes of the file."""


def save_snapshots(model: RePre, images: Tensor, path: Path, *, views: ViewsConfig, device: torch.device) -> None:
    """Writes the file for the monitors' images [M, C, S, S]; the same model and images give the same bytes."""
    with isolated_evaluation(model, device):
        arrays = snapshots(model, images, views=views, device=device)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pack(arrays)
    write_atomically(path, lambda file: file.write(content))


def snapshots(model: RePre, images: Tensor, *, views: ViewsConfig, device: torch.device) -> dict[str, np.ndarray]:
    """The arrays of the file, of a model in evaluation mode."""
    few = images[:IMAGES]
    kept = model.export_encoder(few.to(device))
    levels = [level.float().cpu() for level in kept.maps]
    arrays = {"images": picture(denormalize(few, views))}
    if model.decoder is not None:
        maps, size = model.encoder(few.to(device)).maps, few.shape[-2:]
        arrays["rebuilt"] = picture(as_pictures(model.decoder(maps, size).float().cpu(), few, model, views))
        for level in model.decoder.levels:
            alone = from_one_level(model.decoder, maps, level, size).float().cpu()
            arrays[f"rebuilt_level_{level}"] = picture(as_pictures(alone, few, model, views))
    for number, level in enumerate(levels):
        arrays[f"pca_level_{number}"] = colors(level)
    arrays["patches"] = quantized_patches(levels[-1])
    return arrays | neighbors(embed(model.export_encoder, images, device=device), images, views=views)


def picture(images: Tensor) -> np.ndarray:
    """Images [N, C, S, S] in [0, 1] as uint8 [N, S, S, 3], at most `LARGEST` a side."""
    if images.shape[-1] > LARGEST:
        images = F.interpolate(images, (LARGEST, LARGEST), mode="bilinear", antialias=True)
    return as_bytes(three_channels(images))


def components(maps: Tensor, count: int) -> Tensor:
    """Patch features of maps [N, C, h, w] on their first principal components over all patches: [N, h, w, d <= count].

    The largest weight of a component is positive, so that its sign is no accident.
    """
    n, c, h, w = maps.shape
    x = maps.movedim(1, -1).reshape(-1, c).double()
    x = x - x.mean(0)
    _, vectors = torch.linalg.eigh(x.mT @ x)
    vectors = vectors.flip(1)[:, :count]  # [C, d], the largest variance first
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (x @ (vectors * largest.sign())).view(n, h, w, -1)


def colors(maps: Tensor) -> np.ndarray:
    """Three principal components of maps [N, C, h, w] as colors, uint8 [N, h, w, 3]; the 1st and 99th percentile of
    each span the range."""
    found = components(maps, 3)
    found = F.pad(found, (0, 3 - found.shape[-1]))
    low, high = (np.quantile(found.flatten(0, 2).numpy(), q, axis=0) for q in (0.01, 0.99))
    return np.round(np.clip((found.numpy() - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def quantized_patches(maps: Tensor) -> np.ndarray:
    """Patch features of maps [N, C, h, w] on their first components, of length 127: int8 [N, h, w, d]."""
    return (F.normalize(components(maps, COMPONENTS), dim=-1) * 127).round().to(torch.int8).numpy()


def neighbors(embeddings: Tensor, images: Tensor, *, views: ViewsConfig) -> dict[str, np.ndarray]:
    """The nearest other images of the first `IMAGES`, of embeddings [M, D] of normalized images [M, C, S, S]."""
    points = F.normalize(embeddings.double(), dim=1)
    cosines = points[:IMAGES] @ points.T  # [N, M]
    cosines.fill_diagonal_(-2.0)
    order = cosines.argsort(dim=1, descending=True, stable=True)[:, : min(NEIGHBORS, len(points) - 1)]
    shown = three_channels(denormalize(images[order.flatten()], views))
    small = F.interpolate(shown, (THUMBNAIL,) * 2, mode="bilinear", antialias=True)
    return {
        "neighbors": order.numpy().astype(np.int32),
        "neighbor_cosines": cosines.gather(1, order).numpy().astype(np.float32),
        "neighbor_images": as_bytes(small).reshape(*order.shape, THUMBNAIL, THUMBNAIL, 3),
    }


def pack(arrays: dict[str, np.ndarray], *, limit: int = LIMIT) -> bytes:
    """The arrays as a compressed .npz of at most `limit` bytes: pictures lose low bits until it fits."""
    for bits in range(8, 0, -1):
        mask = np.uint8(256 - 2 ** (8 - bits))
        rounded = {name: a & mask if a.dtype == np.uint8 and bits < 8 else a for name, a in arrays.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **rounded)  # type: ignore[arg-type]
        if file.tell() <= limit:
            break
    return file.getvalue()
