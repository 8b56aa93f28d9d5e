"""A run that continues from trained weights starts exactly as good as they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repre.evaluation.classification.knn_probe import KNNProbe
from repre.models.encoder import Encoder
from repre.models.timm_folder import save_encoder
from repre.training.optim import OptimConfig
from tests import tiny
from tests.models.timm_models import perturb
from tests.training.toy import run, toy


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that is far from its init, for images of 48 pixels; the run has 32."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("start")
    save_encoder(perturb(Encoder(replace(tiny.ENCODERS["vit"], image_size=48))), folder)
    return folder


@pytest.mark.parametrize("framework", ["moco-v3", "dino", "dinov2"])
def test_a_continued_run_starts_as_good_as_its_weights(start: Path, tmp_path: Path, framework: str) -> None:
    """DINO and DINOv2 export the teacher, which starts from the weights as the student does."""
    encoder = replace(tiny.ENCODERS["vit"], weights=str(start))
    heads_first = replace(tiny.FRAMEWORKS[framework], head_warmup=0.5)
    optim = OptimConfig(lr=1e-2, warmup_fraction=0.1, layer_decay=0.7)
    config = toy(tmp_path / "run", framework, data="scenes:64:32", epochs=2, encoder=encoder, optim=optim)
    config = replace(config, framework=heads_first)
    probe = KNNProbe.for_scenes(config.data, config.views)
    alone = probe(Encoder(encoder).eval())["knn"]
    torch.manual_seed(6)
    assert alone != probe(Encoder(replace(encoder, weights=None)).eval())["knn"]
    validations = run(config, probe=probe)["validations"]
    assert [row["knn"] for row in validations][:2] == [alone, alone]  # in the first epoch heads learn alone
    assert (tmp_path / "run" / "log.txt").read_text().count(f"encoder.weights {start}") == 1
