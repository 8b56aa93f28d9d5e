"""An exported model computes what the model computes, and says what goes in and what comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from repre.errors import RunError, UserError
from repre.evaluation.fitted.fitted_folder import load_fitted
from repre.evaluation.fitted.fitted_model import PredictRuntime
from repre.evaluation.fitted.prediction_images import open_images
from repre.exporters import exporter, fitted_export, onnx_export
from repre.exporters.fitted_export import export_fitted
from tests.evaluation.fitted.tiny_fits import FITS, KINDS

CPU = PredictRuntime(device="cpu", workers=0)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "tokens": ("linear", {"tokens": True}),
    "finetune": ("finetune", {}),
    "segment": ("segment", {}),
    "raw": ("segment", {"features": "raw", "levels": "last"}),
    "upernet": ("segment", {"head": "upernet"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", fitted_export.TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_encoder_and_head_are_exported_together(
    name: str, kind: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, more = MODELS[name]
    fitted = FITS[evaluation](tmp_path, monkeypatch, kind=kind, **more)
    exported = export_fitted(fitted.path, to=target, out=tmp_path / "exported")
    assert exported.difference <= exporter.TARGETS[target].tolerance
    content = json.loads((tmp_path / "exported" / "model.json").read_text())
    model = load_fitted(fitted.path)
    assert content["classes"] == model.classes
    assert content["preprocessing"]["mean"] == list(model.preprocessing.mean)
    if target == "torch-export":
        texts = {"classes": ""}
        torch.export.load(tmp_path / "exported" / "model.pt2", extra_files=texts)
        assert json.loads(texts["classes"]) == model.classes


@pytest.mark.slow
def test_onnxruntime_classifies_the_images_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files to labels with what the metadata say, beside the model's own prediction."""
    fitted = FITS["linear"](tmp_path, monkeypatch)
    export_fitted(fitted.path, to="onnx", out=tmp_path / "exported")
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "model.onnx")
    texts = session.get_modelmeta().custom_metadata_map
    classes, output = json.loads(texts["classes"]), json.loads(texts["output"])
    model = load_fitted(fitted.path)
    assert (texts["task"], classes, output) == ("classify", model.classes, {"name": "scores", "then": "softmax"})
    assert json.loads(texts["input"])["shape"] == ["batch", 3, 32, 32]
    source = open_images(model, fitted.images)
    for index, expected in enumerate(model.predict(fitted.images, runtime=CPU)):
        image = source.load(index)
        sizes = torch.tensor([image.shape[:2]])
        canvas = np.zeros((max(image.shape), max(image.shape), 3), np.uint8)
        canvas[: image.shape[0], : image.shape[1]] = image
        views = model.preprocessing.transform(torch.from_numpy(canvas).permute(2, 0, 1)[None], sizes)
        (scores,) = session.run(["scores"], {"images": views.numpy()})
        assert classes[int(scores[0].argmax())] == expected.labels[0]
        np.testing.assert_allclose(
            torch.from_numpy(scores[0]).softmax(0).numpy(), expected.probabilities, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("target", fitted_export.TARGETS)
def test_another_function_is_an_error_and_leaves_nothing(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = FITS["linear"](tmp_path, monkeypatch)
    module: Any = onnx_export if target == "onnx" else fitted_export.torch_export
    monkeypatch.setattr(module, "write_program", lambda module, *_, **__: lambda images: [module(images)[0] * 1.01])
    with pytest.raises(RunError, match=r"differs from it by 0\.0(099|1)"):
        export_fitted(fitted.path, to=target, out=tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = FITS["detect"](tmp_path, monkeypatch)
    with pytest.raises(UserError, match="cannot export Mask R-CNN"):
        export_fitted(fitted.path, to="onnx", out=tmp_path / "exported")
    with pytest.raises(UserError, match="no such target; did you mean 'onnx'"):
        export_fitted(fitted.path, to="onxx", out=tmp_path / "exported")
    with pytest.raises(UserError, match="is not an export"):
        export_fitted(fitted.path, to="onnx", out=tmp_path)
    assert not (tmp_path / "exported").exists()
