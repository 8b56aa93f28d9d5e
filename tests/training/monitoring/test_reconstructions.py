"""Reconstructions: metrics against slow versions and known answers, and the panel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.losses.pixel_loss import normalize_patches
from repre.training.monitoring.reconstructions import (
    fidelity,
    level_shares,
    psnr,
    rebuild,
    rebuild_from_level,
    restore_patch_statistics,
    save_panel,
    ssim,
)
from tests import tiny
from tests.oracles import metrics as slow


def pictures(count: int = 2, side: int = 14, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(2, 3, 8, 8)
    gray = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    assert psnr(black, gray).tolist() == pytest.approx([20, 40], abs=1e-3)
    assert psnr(black, black).tolist() == pytest.approx([100, 100])


def test_ssim_equals_the_slow_loops() -> None:
    images, rebuilt = pictures(), 0.7 * pictures() + 0.3 * pictures(seed=1)
    expected = [slow.ssim(image, picture) for image, picture in zip(images, rebuilt)]
    assert ssim(images, rebuilt).tolist() == pytest.approx(expected, rel=1e-9)
    assert ssim(images, images).tolist() == pytest.approx([1, 1])


def test_ssim_of_small_pictures_uses_the_largest_odd_window_that_fits() -> None:
    images, rebuilt = pictures(side=8), pictures(side=8, seed=1)
    expected = [slow.ssim(image, picture, window=7) for image, picture in zip(images, rebuilt)]
    assert ssim(images, rebuilt).tolist() == pytest.approx(expected)


def test_a_flat_picture_has_the_flat_psnr() -> None:
    images = pictures()
    metrics = fidelity(images, images.mean((2, 3), keepdim=True).expand_as(images))
    assert metrics["psnr"] == pytest.approx(metrics["psnr_flat"])
    assert metrics["ssim"] < 0.1


def test_patch_statistics_are_restored() -> None:
    images = 3 * pictures(side=16) + 1
    normalized = normalize_patches(images, 8)
    torch.testing.assert_close(restore_patch_statistics(normalized, images, 8), images)


def test_rebuild_with_patch_norm_shows_each_patch_in_its_own_colors() -> None:
    views = ViewsConfig(size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = tiny.tiny_model("simclr", "vit", reconstruction={"patch_norm": 8}).eval()
    assert model.decoder is not None
    for parameter in model.decoder.parameters():
        torch.nn.init.zeros_(parameter)  # predicts 0 everywhere: the mean of every patch
    images, rebuilt = rebuild(model, pictures(side=32), views=views, device=torch.device("cpu"))
    assert torch.equal(images, pictures(side=32))
    patch = images[0, :, 8:16, 16:24]
    torch.testing.assert_close(rebuilt[0, :, 8:16, 16:24], patch.mean().expand_as(patch))


@pytest.mark.parametrize("masked_input", ["token", "pixels"])
def test_a_decoder_that_knows_hidden_patches_only_is_shown_only_there(masked_input: str) -> None:
    views = ViewsConfig(size=32, mask=MaskConfig(kind="random", patch=8, image_share=0.1))
    changes: dict[str, Any] = {"masked_input": masked_input}
    model = tiny.tiny_model("pixels", "vit", masked=masked_input == "token", reconstruction=changes).eval()
    images = pictures(5, side=32)
    originals, shown = rebuild(model, images, views=views, device=torch.device("cpu"))
    cells = (shown != originals).any(1).unflatten(1, (4, 8)).unflatten(3, (4, 8))
    hidden = cells.any(4).any(2)  # [N, rows, columns]
    assert hidden.flatten(1).sum(1).tolist() == [10] * 5  # 60 % of 16, in every image
    assert torch.equal(cells, hidden[:, :, None, :, None].expand_as(cells))
    assert not torch.equal(hidden[0], hidden[1])
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = images.where(~pixels, torch.rand_like(images))  # hidden pixels do not reach the encoder
    torch.testing.assert_close(rebuild(model, other, views=views, device=torch.device("cpu"))[1], shown)
    everywhere = tiny.tiny_model("pixels", "vit", reconstruction={"masked_pixels": "all"}).eval()
    assert bool((rebuild(everywhere, images, views=views, device=torch.device("cpu"))[1] != originals).any(1).all())


def test_level_shares_find_the_level_that_is_used() -> None:
    model = tiny.tiny_model("simclr", "vit")
    decoder, images = model.decoder, pictures(3, 32)
    assert decoder is not None
    with torch.no_grad():
        maps = model.encoder(images).maps
        shares = level_shares(decoder, maps, (32, 32))
        assert list(shares) == [f"level_share_{level}" for level in decoder.levels]
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) > 0.01
        for level, lateral in zip(decoder.levels, decoder.laterals):
            if level != 1:
                lateral.weight.zero_()
        assert level_shares(decoder, maps, (32, 32))["level_share_1"] == pytest.approx(1)
        full = decoder(maps, (32, 32))
        assert torch.allclose(rebuild_from_level(decoder, maps, 1, (32, 32)), full)
        assert not torch.allclose(rebuild_from_level(decoder, maps, 0, (32, 32)), full)


@pytest.mark.parametrize(("side", "factor"), [(32, 4), (200, 1)])
def test_a_panel_shows_images_above_reconstructions(tmp_path: Path, side: int, factor: int) -> None:
    images, rebuilt = pictures(side=side), pictures(side=side, seed=1)
    save_panel(images, rebuilt, tmp_path / "panel" / "a.png")
    panel = np.asarray(Image.open(tmp_path / "panel" / "a.png"))
    cell = factor * side + 4
    assert panel.shape == (2 * cell, 2 * cell, 3)
    for row, source in enumerate((images, rebuilt)):
        for column in range(2):
            shown = panel[
                row * cell + 2 : (row + 1) * cell - 2 : factor, column * cell + 2 : (column + 1) * cell - 2 : factor
            ]
            expected = (source[column].permute(1, 2, 0).numpy() * 255).round()
            assert np.array_equal(shown, expected)
