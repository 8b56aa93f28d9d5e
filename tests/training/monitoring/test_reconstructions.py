"""Pictures and their fidelity: against slow versions and cases with known answers."""

import pytest
import torch

from repre.training.monitoring.reconstructions import fidelity, from_one_level, level_shares, psnr, ssim
from tests import tiny
from tests.oracles import metrics as looks


def pictures(count: int = 2, side: int = 14, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(2, 3, 8, 8)
    gray = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    assert psnr(black, gray).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_ssim_equals_the_slow_loops() -> None:
    one, other = pictures(), 0.7 * pictures() + 0.3 * pictures(seed=1)
    assert ssim(one, other).tolist() == pytest.approx([looks.ssim(a, b) for a, b in zip(one, other)], rel=1e-9)
    assert ssim(one, one).tolist() == pytest.approx([1, 1])
    small, noisy = pictures(side=8), pictures(side=8, seed=1)
    assert ssim(small, noisy).tolist() == pytest.approx([looks.ssim(a, b, window=7) for a, b in zip(small, noisy)])


def test_a_flat_picture_has_the_flat_psnr() -> None:
    shown = pictures()
    found = fidelity(shown, shown.mean((2, 3), keepdim=True).expand_as(shown))
    assert found["psnr"] == pytest.approx(found["psnr_flat"])
    assert found["ssim"] < 0.1


def test_level_shares_find_the_level_that_is_used() -> None:
    model = tiny.tiny_model("simclr", "vit")
    decoder, images = model.decoder, pictures(3, 32)
    assert decoder is not None
    with torch.no_grad():
        maps = model.encoder(images).maps
        even = level_shares(decoder, maps, (32, 32))
        assert list(even) == [f"level_share_{level}" for level in decoder.levels]
        assert sum(even.values()) == pytest.approx(1)
        assert min(even.values()) > 0.01
        for place, lateral in enumerate(decoder.laterals):
            if place != 1:
                lateral.weight.zero_()
        only = level_shares(decoder, maps, (32, 32))
        assert only["level_share_1"] == pytest.approx(1)
        assert torch.allclose(from_one_level(decoder, maps, 1, (32, 32)), decoder(maps, (32, 32)))
        assert not torch.allclose(from_one_level(decoder, maps, 0, (32, 32)), decoder(maps, (32, 32)))
