"""A finished run and a saved encoder, both tiny."""

from pathlib import Path

import pytest
from PIL import Image

import repre
from repre.config import RunConfig, RuntimeConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.models.decoder import DecoderConfig
from tests import tiny


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 images."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(16):
        image = Image.radial_gradient("L").rotate(10 * index).resize((48, 40)).convert("RGB")
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def config(photos: Path) -> RunConfig:
    return RunConfig(
        data=str(photos),
        epochs=1,
        batch_size=8,
        encoder=tiny.ENCODERS["vit"],
        framework=tiny.FRAMEWORKS["simclr"],
        decoder=DecoderConfig(dim=16),
        views=ViewsConfig(size=32),
        runtime=RuntimeConfig(device="cpu", workers=0, monitor_samples=8),
    )


@pytest.fixture(scope="session")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> repre.Run:
    """A finished run that tests may read but not change."""
    return repre.pretrain(config, out=tmp_path_factory.mktemp("runs") / "photos")
