"""Features of a labelled source: from an encoder, or the two baselines that an encoder has to beat."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repre.data.loader import stack
from repre.data.sources import Source
from repre.data.views import ViewsConfig, centre_view, denormalise
from repre.encoder import Encoder
from repre.errors import UserError


@dataclass(frozen=True)
class Labelled:
    """Images of a labelled source as plain centre views.

    Attributes:
        images: normalised, [N, C, S, S].
        labels: int64 [N].
        classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int


def load_labelled(source: Source, *, views: ViewsConfig, canvas: int, batch: int = 256) -> Labelled:
    """Decodes a whole labelled source to centre views at the size of the global views."""
    if source.labels is None:
        raise UserError(f"{source.spec} has no labels")
    parts = []
    for start in range(0, len(source), batch):
        images = [source.load(index) for index in range(start, min(start + batch, len(source)))]
        pixels, sizes = stack(images, canvas=canvas, keep_values=views.value_range is not None)
        parts.append(centre_view(pixels, sizes, size=views.size, config=views))
    labels = torch.from_numpy(np.asarray(source.labels, dtype=np.int64))
    return Labelled(torch.cat(parts), labels, len(source.classes))


@torch.no_grad()
def extract(images: Tensor, features: Callable[[Tensor], Tensor], *, batch: int = 256) -> Tensor:
    """Applies `features` ([B, C, S, S] -> [B, D]) piece by piece; gives float32 on the CPU, [N, D]."""
    return torch.cat([features(part).float().cpu() for part in images.split(batch)])


def encoder_features(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """The pooled embedding of an encoder in evaluation mode; its mode is put back after every piece."""
    device = next(encoder.parameters()).device

    def embed(images: Tensor) -> Tensor:
        mode = encoder.training
        encoder.eval()
        try:
            return encoder(images.to(device), maps=False).embedding
        finally:
            encoder.train(mode)

    return embed


def raw_pixels(images: Tensor) -> Tensor:
    """The pixels themselves, centred per image: [B, C, S, S] -> [B, C S S]."""
    flat = images.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def colour_histogram(views: ViewsConfig, *, bins: int = 8) -> Callable[[Tensor], Tensor]:
    """Square root of the joint histogram of the (first three) channels with `bins` steps each: [B, bins ** channels]."""

    def histogram(images: Tensor) -> Tensor:
        levels = (denormalise(images[:, :3], views).clamp(0, 1) * (bins - 1e-4)).long()  # [B, C, S, S]
        cells = torch.zeros_like(levels[:, 0])
        for channel in levels.unbind(1):
            cells = cells * bins + channel
        counts = torch.zeros(len(images), bins ** levels.shape[1])
        counts.scatter_add_(1, cells.flatten(1).cpu(), torch.ones(cells.flatten(1).shape))
        return (counts / cells[0].numel()).sqrt()

    return histogram
