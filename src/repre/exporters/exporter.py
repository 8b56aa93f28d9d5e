"""Exports an encoder to another library. An export is kept only if that library's features equal the encoder's.

Mean, standard deviation, size and interpolation travel in every export. They are read back from it, and the comparison uses
them. To add a target, write a file with ``write(encoder, folder, resolved) -> ExportedModel`` and
``preprocessing(folder) -> dict``, and add a line to `TARGETS`.

    B  images    C  channels    D  embedding width    C_l, h_l, w_l  map of level l
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repre.errors import RunError, UserError, near_names
from repre.exporters import huggingface, onnx_export, torch_export
from repre.exporters.torch_export import TupleEncoder, example_images, output_names
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.models.timm_folder import saved_preprocessing
from repre.models.transform import ImageTransform
from repre.utils.image_size import Size
from repre.utils.io import new_folder, write_json
from repre.utils.os_errors import reason_of

ExportedModel = Callable[[Tensor], list[Tensor]]
"""The model in the other library: images [B, C, H, W] -> [embedding [B, D], map of every level [B, C_l, h_l, w_l]]."""

EXPORT_FILE = "export.json"
"""Describes an export and how well it agrees; a folder with this file is an export and may be replaced by one."""


def _traced(write_program: Callable[..., ExportedModel]) -> Callable[[Encoder, Path, ResolvedEncoder], ExportedModel]:
    """The `write` of a target that stores a program: input `images` [B, C, H, W], outputs `embedding` [B, D] and the maps,
    `map_0`, `map_1`, ..."""

    def write(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> ExportedModel:
        return write_program(
            TupleEncoder(encoder),
            folder,
            example_images(encoder),
            outputs=output_names(encoder),
            metadata=metadata(encoder),
        )

    return write


def metadata(encoder: Encoder) -> dict[str, str]:
    """What a program says about itself: its input and outputs, and how images become its input, as JSON."""
    shape = ["batch", encoder.config.channels, *encoder.image_size]
    return {
        "model": encoder.config.name,
        "input": json.dumps({"name": "images", "shape": shape}),
        "outputs": json.dumps(output_names(encoder)),
        "preprocessing": json.dumps(encoder.transform().describe()),
    }


def _of_metadata(read: Callable[[Path], dict[str, str]]) -> Callable[[Path], dict[str, Any]]:
    """The `preprocessing` of a target whose programs hold `metadata`."""
    return lambda folder: json.loads(read(folder)["preprocessing"])


@dataclass(frozen=True)
class Target:
    """A form of export."""

    write: Callable[[Encoder, Path, ResolvedEncoder], ExportedModel]
    """Writes the encoder into a folder and loads it back with the other library."""
    preprocessing: Callable[[Path], dict[str, Any]]
    """Reads back how images become the input, as `ImageTransform.describe` gives it."""
    tolerance: float
    """Largest difference of a feature, relative to the largest feature, that rounding may cause."""
    description: str
    """What it writes, in one line."""


TARGETS = {
    "timm": Target(
        huggingface.write_timm,
        saved_preprocessing,
        1e-5,
        "safetensors and config, for timm.create_model('local-dir:FOLDER', pretrained=True)",
    ),
    "huggingface": Target(
        huggingface.write_huggingface,
        saved_preprocessing,
        1e-5,
        "the same with a model card, for the hub, timm and transformers",
    ),
    "onnx": Target(
        _traced(onnx_export.write_program),
        _of_metadata(onnx_export.read_metadata),
        1e-3,
        "model.onnx for any number of images of one size, for onnxruntime",
    ),
    "torch-export": Target(
        _traced(torch_export.write_program),
        _of_metadata(torch_export.read_metadata),
        1e-4,
        "model.pt2 for any number of images of one size, for torch.export.load",
    ),
}


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    path: Path
    """Its folder."""
    difference: float
    """Largest difference of a feature, relative to the largest feature."""


@torch.no_grad()
def export(
    spec: str,
    *,
    to: str,
    out: Path,
    size: Size | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Exported:
    """Exports an encoder.

    Args:
        spec: the encoder, in any way that `repre.models.resolve` lists.
        to: a name of `TARGETS`.
        out: the folder to write: a new or empty one, or an earlier export, which is replaced.
        size: of the images that it takes; None: that of its training.
        mean, std: of every channel, instead of what the weights expect.

    Raises:
        UserError: there is no such encoder or target, a library is missing, or `out` has other content.
        RunError: the exported model gives other features; nothing is left behind.
    """
    if to not in TARGETS:
        raise UserError(f"--to {to}: there is no such target{near_names(to, TARGETS)}; choose {', '.join(TARGETS)}")
    check_folder(out)
    resolved = resolve_encoder(spec).normalized(mean, std)
    encoder = resolved.build(image_size=size).float().eval()
    transform = encoder.transform()

    def features(images: Tensor) -> list[Tensor]:
        found = encoder(transform(images))
        return [found.embedding, *found.maps]

    def write(folder: Path) -> ExportedModel:
        model = TARGETS[to].write(encoder, folder, resolved)
        read = ImageTransform.from_description(TARGETS[to].preprocessing(folder))
        return lambda images: model(read(images))

    return checked_export(
        write,
        features,
        _random_batches(transform),
        out=out,
        to=to,
        tolerance=TARGETS[to].tolerance,
        what=spec,
        name=encoder.config.name,
    )


def check_folder(out: Path) -> None:
    """Refuses a folder with other content than an export; raises UserError."""
    if out.exists() and not (out / EXPORT_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an export; name a new folder")


def checked_export(
    write: Callable[[Path], ExportedModel],
    expected: ExportedModel,
    batches: list[Tensor],
    *,
    out: Path,
    to: str,
    tolerance: float,
    what: str,
    name: str,
) -> Exported:
    """Writes an export, compares what it computes, and gives the folder its name.

    Args:
        write: writes the model into a folder and loads it back with the other library.
        expected: the model here.
        batches: images to compare outputs on.
        out: the folder: a new or empty one, or an earlier export, which is replaced.
        to: name of the target.
        tolerance: largest difference of an output, relative to its largest value.
        what: the model, for messages.
        name: of the encoder's architecture.

    Raises:
        UserError: `out` has other content or cannot be written.
        RunError: the exported model gives other outputs; nothing is left behind.
    """
    check_folder(out)
    try:
        with new_folder(out) as folder:
            exported_model = write(folder)
            difference = max(_difference(expected, exported_model, images) for images in batches)
            if not difference <= tolerance:
                raise RunError(
                    f"the {to} export of {what} differs from it by {difference:.2g} of its largest value, more than "
                    f"{tolerance:g}; the export was removed"
                )
            write_json(folder / EXPORT_FILE, {"to": to, "model": name, "largest_difference": difference})
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({reason_of(error)}); name another folder") from error
    return Exported(out, difference)


def _random_batches(transform: ImageTransform) -> list[Tensor]:
    """Gives two batches of images, larger than the encoder's input; random pixels suffice to compare two functions."""
    generator = torch.Generator().manual_seed(0)
    low, high = transform.transform.views.value_range or (0.0, 1.0)
    height, width = transform.transform.views.shape
    shape = transform.channels, height + 8, width + 16
    return [low + (high - low) * torch.rand(count, *shape, generator=generator) for count in (2, 5)]


def _difference(model: ExportedModel, exported_model: ExportedModel, images: Tensor) -> float:
    """Gives the largest difference between the outputs of both, relative to the largest value of an output."""
    expected, actual = model(images), exported_model(images)
    if len(actual) != len(expected):
        raise RunError(f"the exported model has {len(actual)} outputs, the encoder {len(expected)}")
    largest = 0.0
    for feature, exported in zip(expected, actual):
        if feature.shape != exported.shape:
            raise RunError(
                f"the exported model gives {tuple(exported.shape)} where the encoder gives {tuple(feature.shape)}"
            )
        largest = max(largest, float((feature - exported).abs().max() / feature.abs().max().clamp_min(1e-12)))
    return largest
