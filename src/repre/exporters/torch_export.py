"""torch.export: a program that runs without this package and without timm."""

from pathlib import Path

import torch
from torch import Tensor, nn

from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder


class Flat(nn.Module):
    """The encoder with a tuple of tensors: embedding [B, D], then the maps, each [B, C_l, h_l, w_l]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder(images)
        return features.embedding, *features.maps


def names(encoder: Encoder) -> list[str]:
    """Names of the outputs of `Flat`."""
    return ["embedding", *(f"map_{place}" for place in range(len(encoder.out_indices)))]


def write(encoder: Encoder, folder: Path, start: ResolvedEncoder) -> "Reloaded":
    """Writes ``model.pt2`` with a free number of images."""
    images = torch.zeros(2, encoder.config.channels, *encoder.image_size)
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    torch.export.save(torch.export.export(Flat(encoder).eval(), (images,), dynamic_shapes=shapes), folder / "model.pt2")
    return Reloaded(torch.export.load(folder / "model.pt2").module())


class Reloaded:
    """The program as torch loads it back."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, images: Tensor) -> list[Tensor]:
        return list(self.module(images))
