"""Exports to ONNX and loads the file with onnxruntime. The only file that imports either."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from repre.exporters.torch_export import variable_batch
from repre.utils.optional_imports import require


def write_program(
    module: nn.Module, folder: Path, images: Tensor, *, outputs: list[str], metadata: dict[str, str] | None = None
) -> Callable[[Tensor], list[Tensor]]:
    """Writes ``model.onnx`` with the input `images` and loads it with onnxruntime.

    Args:
        module: maps images [B, C, H, W] to a tuple of tensors.
        images: to trace with.
        outputs: names of the tensors.
        metadata: further texts by name, stored in the file.

    Raises:
        UserError: a library is missing.
    """
    for name in ("onnx", "onnxscript"):  # torch.onnx.export needs them
        require(name, extra="onnx", purpose="--to onnx")
    onnxruntime = require("onnxruntime", extra="onnx", purpose="--to onnx")
    program = torch.onnx.export(
        module.eval(),
        (images,),
        input_names=["images"],
        output_names=outputs,
        dynamic_shapes=variable_batch(images),
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def read_metadata(folder: Path) -> dict[str, str]:
    """The texts that ``model.onnx`` in a folder holds by name."""
    onnxruntime = require("onnxruntime", extra="onnx", purpose="--to onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    texts: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return texts
