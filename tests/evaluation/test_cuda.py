"""What only a GPU can confirm of evaluations: every tensor is where it must be, and metrics are those of the CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.evaluation.classification import finetune, knn, linear
from repre.evaluation.detection import detect
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.evaluation.segmentation import segment
from repre.exporters.embeddings import embed
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import save_encoder
from tests.evaluation.tiny_eval import tiny_resolved
from tests.tiny import ENCODERS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FIT = FitConfig(epochs=1, batch_size=4, lr=1e-4, drop_path=0.0)
EVALUATIONS: dict[str, tuple[Callable[..., Result], Any]] = {
    "knn": (knn.run, knn.KNNConfig(data="scenes:40:16", baselines=True)),
    "linear": (linear.run, linear.LinearConfig(data="scenes:40:16", steps=50)),
    "finetune": (finetune.run, finetune.FinetuneConfig(data="scenes:24:16", fit=FIT, mixup=0.8, cutmix=1.0)),
    "segment": (segment.run, segment.SegmentConfig(data="scenes:8:24", size=16, fit=FIT)),
    "segment-upernet": (
        segment.run,
        segment.SegmentConfig(data="scenes:8:24", size=16, head="upernet", width=16, fit=FIT),
    ),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_metrics_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    run, config = EVALUATIONS[name]
    found = []
    for device in ("cpu", "cuda"):
        runtime = RuntimeOptions(device=device, precision="fp32", workers=0, batch=8, cache=tmp_path / device)
        found.append(run(tiny_resolved(), replace(config, runtime=runtime)).metrics)
    assert found[1].keys() == found[0].keys()
    assert found[1] == pytest.approx(found[0], abs=0.1)  # few test images: one of another class is 2 to 5 %


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_detection_runs(precision: Any, tmp_path: Path) -> None:
    runtime = RuntimeOptions(device="cuda", precision=precision, workers=0, batch=2)
    config = detect.DetectConfig(data="scenes:4:48", width=16, fit=replace(FIT, batch_size=2), runtime=runtime)
    result = detect.run(ResolvedEncoder("random:vit", ENCODERS["vit"], None), config, work_dir=tmp_path)
    assert all(0 <= value <= 1 for value in result.metrics.values())


@pytest.mark.parametrize("kind", ["pooled", "patch", "pyramid"])
def test_embeddings_are_those_of_the_cpu(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_encoder(Encoder(ENCODERS["vit"]), tmp_path / "encoder")
    files = []
    for device in ("cpu", "cuda"):
        runtime = RuntimeOptions(device=device, precision="fp32", workers=0, batch=8)
        path = tmp_path / f"{device}.npz"
        embed(str(tmp_path / "encoder"), data="scenes:12:32", out=path, kind=kind, runtime=runtime)
        files.append(np.load(path))
    for name in files[0].files:
        if name != "paths":
            np.testing.assert_allclose(files[1][name], files[0][name], rtol=1e-2, atol=1e-3)
