"""Every encoder becomes a pyramid of halving grids; a frozen one does not change."""

from dataclasses import replace

import pytest
import torch

from repre.evaluation.detection.pyramid import Backbone
from repre.models.encoder import Encoder, EncoderConfig
from tests.tiny import ENCODERS

KINDS = ENCODERS | {"convnext": EncoderConfig(name="convnext_atto", image_size=64)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
def test_grids_halve_and_channels_are_equal(kind: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = Backbone(Encoder(KINDS[kind]), width=16)
    maps = list(backbone(torch.rand(2, 3, *shape)).values())
    assert len(maps) == len(backbone.strides) == 4
    for features, stride in zip(maps, backbone.strides):
        assert features.shape == (2, 16, -(-shape[0] // stride), -(-shape[1] // stride))
        assert features.dtype == torch.float32
    assert [b / a for a, b in zip(backbone.strides, backbone.strides[1:])] == [2, 2, 2]


def test_the_finest_grid_is_a_quarter_of_a_plain_transformers_stride() -> None:
    assert Backbone(Encoder(ENCODERS["vit"]), width=8).strides == [2, 4, 8, 16]
    assert Backbone(Encoder(ENCODERS["swin"]), width=8).strides == [4, 8, 16, 32]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_pyramid_gets_normed_maps_or_raw_ones(kind: str, norm: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(ENCODERS[kind]).eval()
    backbone, images = Backbone(encoder, width=8, norm=norm), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected, other = (backbone.pyramid(encoder(images, norm=which).maps) for which in (norm, not norm))
        for features, reference in zip(backbone(images).values(), expected, strict=True):
            assert torch.equal(features, reference)
    assert not torch.allclose(expected[-1], other[-1], rtol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_stays_and_the_pyramid_learns(kind: str) -> None:
    config = KINDS[kind]
    backbone = Backbone(Encoder(replace(config, drop_path=0.5)), width=16, frozen=True).train()
    before = {name: value.clone() for name, value in backbone.encoder.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    first, second = (backbone(images) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first), "drop path is off"
    torch.stack([features.square().mean() for features in first.values()]).sum().backward()
    assert all(p.grad is None for p in backbone.encoder.parameters())
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in backbone.pyramid.named_parameters() if "weight" in n
    )
    for name, value in backbone.encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_unfrozen_encoder_learns() -> None:
    backbone = Backbone(Encoder(ENCODERS["vit"]), width=16).train()
    torch.stack([features.square().mean() for features in backbone(torch.rand(2, 3, 32, 32)).values()]).sum().backward()
    gradient = backbone.encoder.model.patch_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
