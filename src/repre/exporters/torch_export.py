"""Exports a program by torch.export that runs without this package and without timm."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder


class TupleEncoder(nn.Module):
    """The encoder with a tuple of tensors as output: embedding [B, D], then the maps, each [B, C_l, h_l, w_l]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder(images)
        return features.embedding, *features.maps


def output_names(encoder: Encoder) -> list[str]:
    """Names the outputs of `TupleEncoder`."""
    return ["embedding", *(f"map_{level}" for level in range(len(encoder.out_indices)))]


def example_inputs(encoder: Encoder) -> tuple[tuple[Tensor], dict[str, dict[int, object]]]:
    """Gives images to trace with, and the dimensions of them that stay variable: their number."""
    images = torch.zeros(2, encoder.config.channels, *encoder.image_size)
    return (images,), {"images": {0: torch.export.Dim("batch", min=1)}}


def write(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes ``model.pt2`` and loads it back."""
    inputs, dynamic_shapes = example_inputs(encoder)
    program = torch.export.export(TupleEncoder(encoder).eval(), inputs, dynamic_shapes=dynamic_shapes)
    torch.export.save(program, folder / "model.pt2")
    module = torch.export.load(folder / "model.pt2").module()
    return lambda images: list(module(images))
