"""ONNX, checked with onnxruntime. The only file that imports either."""

from pathlib import Path

import torch
from torch import Tensor

from repre.errors import UserError
from repre.exporters.torch_export import Flat, names
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder


def write(encoder: Encoder, folder: Path, start: ResolvedEncoder) -> "Runtime":
    """Writes ``model.onnx``: input `images` [B, C, H, W], outputs `embedding` [B, D] and `map_0`, `map_1`, ..."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX needs onnx, onnxscript and onnxruntime: pip install 'repre[onnx]'") from error
    images = torch.zeros(2, encoder.config.channels, *encoder.image_size)
    program = torch.onnx.export(
        Flat(encoder).eval(),
        (images,),
        input_names=["images"],
        output_names=names(encoder),
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        optimize=True,
        verbose=False,
    )
    assert program is not None
    program.save(folder / "model.onnx")
    return Runtime(onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]))


class Runtime:
    """The file as onnxruntime runs it."""

    def __init__(self, session: object) -> None:
        self.session = session

    def __call__(self, images: Tensor) -> list[Tensor]:
        found = self.session.run(None, {"images": images.numpy()})  # type: ignore[attr-defined]
        return [torch.from_numpy(value) for value in found]
