"""Exports a program by torch.export that runs without this package and without timm."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from repre.models.encoder import Encoder
from repre.utils.io import write_atomically


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


def variable_batch(images: Tensor) -> dict[str, dict[int, object]]:
    """The dimension of traced images that stays variable: their number."""
    return {"images": {0: torch.export.Dim("batch", min=1)}}


def write_program(
    module: nn.Module, folder: Path, images: Tensor, *, outputs: list[str], metadata: dict[str, str] | None = None
) -> Callable[[Tensor], list[Tensor]]:
    """Writes ``model.pt2`` and loads it back.

    Args:
        module: maps images [B, C, H, W] to a tuple of tensors.
        images: to trace with.
        outputs: names of the tensors; torch.export keeps none.
        metadata: further texts by name, stored in the file; `torch.export.load(..., extra_files=...)` gives them back.
    """
    program = torch.export.export(module.eval(), (images,), dynamic_shapes=variable_batch(images))
    content = io.BytesIO()  # torch's writer of files ends the process where the disk is full
    torch.export.save(program, content, extra_files=metadata or {})
    write_atomically(folder / "model.pt2", lambda file: file.write(content.getbuffer()))
    loaded = torch.export.load(folder / "model.pt2").module()
    return lambda images: list(loaded(images))


def read_metadata(folder: Path) -> dict[str, str]:
    """The texts that ``model.pt2`` in a folder holds, of those that an encoder's export has."""
    texts = dict.fromkeys(("model", "input", "outputs", "preprocessing"), "")
    torch.export.load(folder / "model.pt2", extra_files=texts)
    return texts


def example_images(encoder: Encoder) -> Tensor:
    """Images to trace with."""
    return torch.zeros(2, encoder.config.channels, *encoder.image_size)
