"""Exports an encoder: a target writes files, the target's own library loads them back, and the features must be ours.

To add a target: a file with ``write(encoder, folder, start) -> Reload`` and a line in the table below.

    B  images    D  width of the embedding    C_l, h_l, w_l  map of level l
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repre.errors import RunError, UserError, near_names
from repre.exporters import huggingface, onnx_export, torch_export
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.utils.io import write_json

Reload = Callable[[Tensor], list[Tensor]]
"""The exported model in the other library: images [B, C, H, W] -> embedding [B, D], then the map of every level."""

NOTE = "export.json"
"""What was exported and how well it agrees; by this file a folder is known as an export."""


@dataclass(frozen=True)
class Target:
    """One form of export.

    Attributes:
        write: writes into a folder and gives the model as the other library loads it back.
        tolerance: largest difference of a feature over the largest feature that rounding may cause.
        words: what it is, in a line.
    """

    write: Callable[[Encoder, Path, ResolvedEncoder], Reload]
    tolerance: float
    words: str


TARGETS = {
    "timm": Target(
        huggingface.write_timm, 1e-5, "safetensors and config: timm.create_model('local-dir:FOLDER', pretrained=True)"
    ),
    "huggingface": Target(
        huggingface.write_huggingface, 1e-5, "the same with a model card, for the hub; timm and transformers"
    ),
    "onnx": Target(onnx_export.write, 1e-3, "model.onnx with any number of images, for onnxruntime"),
    "torch-export": Target(torch_export.write, 1e-4, "model.pt2 with any number of images, for torch.export.load"),
}


@dataclass(frozen=True)
class Exported:
    """What an export gave: its folder, and the largest difference of a feature over the largest feature."""

    path: Path
    difference: float


@torch.no_grad()
def export(spec: str, *, to: str, out: Path) -> Exported:
    """Exports the encoder that `spec` names (see `repre.models.resolve`) into the folder `out`.

    Raises:
        UserError: there is no such encoder or target, a library is missing, or `out` holds something else.
        RunError: the exported model does not give our features; nothing is left behind.
    """
    if to not in TARGETS:
        raise UserError(f"--to {to}: no such target{near_names(to, TARGETS)}; there are {', '.join(TARGETS)}")
    if out.exists() and not (out / NOTE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty and holds no export; name a new folder")
    start = resolve_encoder(spec)
    encoder = start.build().float().eval()
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        reload = TARGETS[to].write(encoder, beside, start)
        difference = max(_difference(encoder, reload, images) for images in _samples(encoder))
        if not difference <= TARGETS[to].tolerance:
            raise RunError(
                f"the {to} export of {spec} differs from the encoder by {difference:.2g} of its largest feature, more than "
                f"{TARGETS[to].tolerance:g}; it was removed"
            )
        write_json(beside / NOTE, {"to": to, "model": encoder.config.name, "largest_difference": difference})
        if out.exists():
            shutil.rmtree(out)
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}); name another folder") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Exported(out, difference)


def _samples(encoder: Encoder) -> list[Tensor]:
    """Batches of different numbers of normalized images; no real images are needed to compare functions."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, encoder.config.channels, *encoder.image_size, generator=generator) for count in (2, 5)]


def _difference(encoder: Encoder, reload: Reload, images: Tensor) -> float:
    features = encoder(images)
    wanted, found = [features.embedding, *features.maps], reload(images)
    if len(found) != len(wanted):
        raise RunError(f"the exported model gives {len(found)} results where the encoder gives {len(wanted)}")
    worst = 0.0
    for mine, theirs in zip(wanted, found):
        if mine.shape != theirs.shape:
            raise RunError(
                f"the exported model gives {tuple(theirs.shape)} where the encoder gives {tuple(mine.shape)}"
            )
        worst = max(worst, float((mine - theirs).abs().max() / mine.abs().max().clamp_min(1e-12)))
    return worst
