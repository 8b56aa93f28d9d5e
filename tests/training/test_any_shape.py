"""Views that are not square, from the run to timm, the evaluations and the report."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repre import api
from repre.config import RunConfig, RuntimeConfig, dump_yaml
from repre.data.views.view_recipes import MaskConfig, dino_views, moco_v3_views
from repre.errors import UserError
from repre.models.decoder import DecoderConfig
from repre.models.encoder import Encoder
from repre.models.timm_folder import load_in_timm
from repre.training.loop import train
from repre.training.optim import OptimConfig
from repre.training.run_state import RunState
from repre.utils.signals import Interrupted
from tests import tiny

SIZE = (32, 48)
CASES = {"vit": "dinov2", "swin": "moby"}
ON_CPU = {"device": "cpu", "workers": 0}


def config(out: Path, encoder: str) -> RunConfig:
    """Two epochs of 24 scenes; DINOv2 has local views and masks."""
    views = replace(dino_views(SIZE, (16, 24), 1), mask=MaskConfig(kind="block", ratio=(0.2, 0.5)))
    return RunConfig(
        data="scenes:24:64",
        out=str(out),
        epochs=2,
        batch_size=8,
        encoder=replace(tiny.ENCODERS[encoder], image_size=None, drop_path=0.2),
        framework=tiny.FRAMEWORKS[CASES[encoder]],
        decoder=DecoderConfig(dim=16),
        views=views if encoder == "vit" else moco_v3_views(SIZE),
        optim=OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1),
        runtime=RuntimeConfig(device="cpu", workers=0, log_every=1, eval_every_epochs=1, monitor_samples=12),
    )


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out: Path = tmp_path_factory.mktemp(request.param) / "run"
    train(config(out, request.param))
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "checkpoints" / "last.pt", weights_only=True)["model"]


def stop_at_3(encoder: Encoder, step: int) -> dict[str, float]:
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return {}


@pytest.mark.slow
def test_a_stopped_and_resumed_run_is_bit_equal(run: Path, tmp_path: Path) -> None:
    stopped = config(tmp_path / "stopped", run.parent.name.rstrip("0123456789"))
    with pytest.raises(Interrupted):
        train(stopped, probe=stop_at_3)
    train(stopped)
    one, other = weights(run), weights(tmp_path / "stopped")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_timm_and_the_evaluations_load_the_encoder(run: Path, tmp_path: Path) -> None:
    encoder, in_timm = api.load_encoder(run), load_in_timm(run / "encoder")
    assert encoder.image_size == SIZE
    assert tuple(in_timm.pretrained_cfg["input_size"]) == (3, *SIZE)
    images = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(in_timm(images), encoder(images).embedding)
    runtime = {**ON_CPU, "cache": tmp_path / "cache"}
    data, common = "scenes:30:64", {"runtime": runtime, "out": tmp_path / "results"}
    knn = api.evaluate("knn", encoder=run, data=data, baselines=True, **common)
    assert knn.details["size"] == SIZE
    resized = api.evaluate("linear", encoder=run, data=data, size=(64, 32), steps=5, **common)
    assert resized.details["size"] == (64, 32)
    fit = {"epochs": 1, "batch_size": 8}
    api.evaluate("finetune", encoder=run, data=data, fit=fit, **common)
    with pytest.raises(UserError, match="32 x 48 pixels; give the side of square windows: --size"):
        api.evaluate("segment", encoder=run, data=data, **common)
    api.evaluate("segment", encoder=run, data=data, size=32, fit=fit, **common)
    embeddings = api.embed(run, data=data, out=tmp_path / "maps.npz", kind="patch", runtime=runtime)
    assert np.load(embeddings.path)["features"].shape[2:] == encoder.check_size(*SIZE).patches.grid


@pytest.mark.slow
def test_pictures_have_the_shape_of_the_views(run: Path, tmp_path: Path) -> None:
    arrays = np.load(sorted((run / "snapshots").glob("*.npz"))[-1])
    assert arrays["images"].shape[1:] == arrays["rebuilt"].shape[1:] == (*SIZE, 3)
    panel = sorted((run / "panel").glob("*.png"))[-1]
    with Image.open(panel) as image:
        count = int(image.info["images"])
        assert image.size[0] / count == 1.5 * (image.size[1] / 2 - 4) + 4, "a frame of 2 pixels around every image"
    page = api.report(run, out=tmp_path / "page.html")
    assert "Reconstruction over time" in Path(page).read_text(encoding="utf-8")


def test_an_encoder_for_another_size_than_the_views_is_refused() -> None:
    """It was trained at the size of the views, while its folder claimed the other one."""
    with pytest.raises(UserError, match=r"96 x 128, but the global views have 224 pixels.*set --views.size 96 128"):
        RunConfig(encoder=replace(tiny.ENCODERS["vit"], image_size=(96, 128)))
    both = RunConfig(encoder=replace(tiny.ENCODERS["vit"], image_size=(96, 128)), views=moco_v3_views((96, 128)))
    assert both.encoder_at_size.image_size == (96, 128)


@pytest.mark.parametrize(
    ("encoder", "size", "local", "says"),
    [
        ("vit", (33, 48), (16, 16), "a multiple of 8 for each side, such as 32 x 48 or 40 x 48"),
        ("swin", (32, 50), (16, 16), "a multiple of 32 for each side, such as 32 x 32 or 32 x 64"),
        ("vit", (32, 48), (16, 20), "views.local_size 16 20: .*such as 16 x 16 or 16 x 24"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_sizes_that_do(
    encoder: str, size: tuple[int, int], local: tuple[int, int], says: str, tmp_path: Path
) -> None:
    views = dino_views(size, local, 1)
    wrong = replace(config(tmp_path, encoder), framework=tiny.FRAMEWORKS["dino"], views=views)
    with pytest.raises(UserError, match=says):
        RunState(wrong, torch.device("cpu"))


def test_the_size_is_written_as_it_is_given() -> None:
    text = dump_yaml(RunConfig(views=moco_v3_views((96, 128))))
    assert "size:\n  - 96\n  - 128\n" in text
    assert "  size: 96\n" in dump_yaml(RunConfig(views=moco_v3_views((96, 96))))
