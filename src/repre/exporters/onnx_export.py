"""Exports to ONNX and loads the file with onnxruntime. The only file that imports either."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from repre.exporters.torch_export import TupleEncoder, example_inputs, output_names
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.optional_imports import require


def write(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
    """Writes ``model.onnx``: input `images` [B, C, H, W], outputs `embedding` [B, D] and `map_0`, `map_1`, ...

    Raises:
        UserError: a library is missing.
    """
    for module in ("onnx", "onnxscript"):  # torch.onnx.export needs them
        require(module, extra="onnx", purpose="--to onnx")
    onnxruntime = require("onnxruntime", extra="onnx", purpose="--to onnx")
    inputs, dynamic_shapes = example_inputs(encoder)
    program = torch.onnx.export(
        TupleEncoder(encoder).eval(),
        inputs,
        input_names=["images"],
        output_names=output_names(encoder),
        dynamic_shapes=dynamic_shapes,
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]
