"""Exports a fitted model, encoder and head together, as a program that runs without this package.

The program maps normalized images to the model's output. How images become its input, and the names of the classes, go into
the file itself and into ``model.json`` beside it. An export is kept only if its outputs equal the model's.

    B  images    C  channels    H, W  height and width
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repre.config_values import to_dict
from repre.errors import UserError, near_names
from repre.evaluation.fitted.fitted_folder import load_fitted
from repre.evaluation.fitted.fitted_model import FittedModel
from repre.exporters import onnx_export, torch_export
from repre.exporters.exporter import TARGETS as ENCODER_TARGETS
from repre.exporters.exporter import Exported, check_folder, checked_export

Program = Callable[[Tensor], list[Tensor]]
TARGETS = ("onnx", "torch-export")
DESCRIPTION = "model.json"


@torch.no_grad()
def export_fitted(path: Path, *, to: str, out: Path) -> Exported:
    """Exports the model that an evaluation fitted.

    Args:
        path: the model, see `load_fitted`.
        to: a name of `TARGETS`.
        out: the folder to write: a new or empty one, or an earlier export, which is replaced.

    Raises:
        UserError: there is no such model or target, the model cannot be exported, a library is missing, or `out` has other
            content.
        RunError: the exported program gives other outputs; nothing is left behind.
    """
    if to not in TARGETS:
        raise UserError(
            f"--to {to}: a fitted model has no such target{near_names(to, TARGETS)}; choose {' or '.join(TARGETS)}, or "
            "export the encoder alone with --encoder"
        )
    check_folder(out)
    model = load_fitted(path).float()
    if not model.is_exportable:
        raise UserError(
            f"--model {path}: PyTorch cannot export Mask R-CNN, whose number of boxes depends on the image. Use "
            "`repre predict` or repre.load_model, or export the encoder alone with --encoder"
        )
    description = describe(model)

    def write(folder: Path) -> Program:
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        write_program = onnx_export.write_program if to == "onnx" else torch_export.write_program
        return write_program(
            _Output(model), folder, model.example(2), outputs=[model.output], metadata=_as_texts(description)
        )

    return checked_export(
        write,
        lambda images: [model(images)],
        [model.example(count) for count in (2, 5)],
        out=out,
        to=to,
        tolerance=ENCODER_TARGETS[to].tolerance,
        what=f"the {model.task} model of {path}",
        name=model.encoder.config.name,
    )


def describe(model: FittedModel) -> dict[str, Any]:
    """What a user of an exported program needs: input and output, preprocessing, names of the classes."""
    height, width = model.encoder.image_size
    return {
        "task": model.task,
        "classes": model.classes,
        "input": {"name": "images", "shape": ["batch", model.encoder.config.channels, height, width]},
        "output": {"name": model.output, "then": model.activation},
        "preprocessing": to_dict(model.preprocessing),
        "head": to_dict(model.head),
    }


def _as_texts(description: dict[str, Any]) -> dict[str, str]:
    """The values as metadata of a file, which are texts: those that are no text as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}


class _Output(nn.Module):
    """The model with a tuple as output, as `write_program` takes it."""

    def __init__(self, model: FittedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model(images),)
