"""Folders that timm and transformers load: safetensors, config.json and, for the Hugging Face hub, a model card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repre.errors import RunError, UserError
from repre.exporters.model_card import model_card
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import load_in_timm, save_encoder


def write_timm(encoder: Encoder, folder: Path, start: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""
    mean, std = (list(values) if values is not None else None for values in (start.mean, start.std))
    save_encoder(encoder, folder, mean=mean, std=std, value_range=start.value_range)
    model: Any = load_in_timm(folder)

    def reload(images: Tensor) -> list[Tensor]:
        maps = model.forward_intermediates(
            images, indices=encoder.out_indices, output_fmt="NCHW", intermediates_only=True
        )
        return [model(images), *maps]

    return reload


def write_huggingface(encoder: Encoder, folder: Path, start: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes the same with a model card; timm loads it from the hub, transformers as AutoModel."""
    try:
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise UserError("this needs transformers: pip install 'repre[huggingface]'") from error
    in_timm = write_timm(encoder, folder, start)
    (folder / "README.md").write_text(model_card(encoder, start), encoding="utf-8")
    disable_progress_bar()
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def both(images: Tensor) -> list[Tensor]:
        theirs = model(images, output_hidden_states=list(encoder.out_indices))
        assert isinstance(theirs.pooler_output, Tensor)
        if not torch.allclose(theirs.pooler_output, in_timm(images)[0], atol=1e-5):
            raise RunError("timm and transformers load different encoders from the export; it was removed")
        return [theirs.pooler_output, *theirs.hidden_states]

    return both
