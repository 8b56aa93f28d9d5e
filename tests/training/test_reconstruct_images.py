"""`reconstruct`: the panel shows every image, and the PSNR is that of the panel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.config_values import to_dict
from repre.errors import UserError
from repre.models.repre import ReconstructionConfig, build_model
from repre.training.checkpoint import save_checkpoint
from repre.training.reconstruct_images import reconstruct
from tests.training.toy import toy


def untrained_run(folder: Path, *, weight: float = 1.0, patch_norm: int = 0) -> Path:
    """A run folder with the checkpoint of an untrained model."""
    config = replace(toy(folder), reconstruction=ReconstructionConfig(weight=weight, patch_norm=patch_norm))
    model = build_model(
        encoder=config.encoder_at_size,
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=0,
    )
    (folder / "checkpoints").mkdir(parents=True)
    save_checkpoint(folder / "checkpoints" / "last.pt", {"config": to_dict(config), "model": model.state_dict()})
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, ...]:
    generator = np.random.default_rng(0)
    paths = tuple(tmp_path / f"{name}.png" for name in "ab")
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.mark.parametrize("patch_norm", [0, 8])
def test_psnr_is_that_of_the_panel(tmp_path: Path, photos: tuple[Path, ...], patch_norm: int) -> None:
    run, out = untrained_run(tmp_path / "run", patch_norm=patch_norm), tmp_path / "new" / "panel.png"
    psnr = reconstruct(photos, run=run, out=out)
    panel = np.asarray(Image.open(out)) / 255
    side = 32 * 4 + 4  # views of 32 pixels, enlarged 4 times, with a gap of 4
    assert panel.shape == (2 * side, 2 * side, 3)
    for column, value in enumerate(psnr):
        image, rebuilt = (
            panel[row * side + 2 : (row + 1) * side - 2, column * side + 2 : (column + 1) * side - 2] for row in (0, 1)
        )
        assert value == pytest.approx(-10 * np.log10(np.mean((image - rebuilt) ** 2)), abs=0.05)  # the panel has 8 bits


def test_mistakes_are_named(tmp_path: Path, photos: tuple[Path, ...]) -> None:
    run, out = untrained_run(tmp_path / "run", weight=0.0), tmp_path / "panel.png"
    with pytest.raises(UserError, match="at least one image"):
        reconstruct((), run=run, out=out)
    with pytest.raises(UserError, match="give the --out folder"):
        reconstruct(photos, run=tmp_path, out=out)
    with pytest.raises(UserError, match="no decoder"):
        reconstruct(photos, run=run, out=out)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png cannot be read"):
        reconstruct((*photos, tmp_path / "text.png"), run=run, out=out)
    assert not out.exists()
