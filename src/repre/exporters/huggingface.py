"""Exports to folders that timm and transformers load: safetensors, config.json and, for the hub, a model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repre.errors import RunError
from repre.exporters.model_card import model_card
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import load_in_timm, save_encoder
from repre.utils.optional_imports import require


def write_timm(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and loads it with timm."""
    described = encoder.transform().describe()
    save_encoder(encoder, folder, mean=described["mean"], std=described["std"], value_range=described["value_range"])
    model: Any = load_in_timm(folder)

    def forward(images: Tensor) -> list[Tensor]:
        maps = model.forward_intermediates(
            images, indices=encoder.out_indices, output_fmt="NCHW", intermediates_only=True
        )
        return [model(images), *maps]

    return forward


def write_huggingface(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes the folder of `write_timm` with a model card, and loads it with timm and transformers.

    Raises:
        UserError: transformers is missing.
        RunError: timm and transformers give different embeddings.
    """
    transformers, logging = (
        require(module, extra="huggingface", purpose="--to huggingface")
        for module in ("transformers", "transformers.utils.logging")
    )
    in_timm = write_timm(encoder, folder, resolved)
    (folder / "README.md").write_text(model_card(encoder, resolved), encoding="utf-8")
    logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def forward(images: Tensor) -> list[Tensor]:
        outputs = model(images, output_hidden_states=list(encoder.out_indices))
        assert isinstance(outputs.pooler_output, Tensor)
        if not torch.allclose(outputs.pooler_output, in_timm(images)[0], atol=1e-5):
            raise RunError("timm and transformers load different encoders from the export; the export was removed")
        return [outputs.pooler_output, *outputs.hidden_states]

    return forward
