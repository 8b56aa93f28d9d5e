"""The start of MoCo v3's transformers against the authors' formulas in loops, and what is exported of it."""

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.moco_v3_init import sincos_positions
from repre.models.timm_folder import save_encoder
from repre.training.optim import OptimConfig, build_optimizer

SMALL = EncoderConfig(
    name="vit_small_patch16_224",
    init="moco-v3",
    freeze_patch_embed=True,
    model_args={"num_heads": 12, "depth": 2},
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


@pytest.mark.parametrize(("height", "width", "dim"), [(14, 14, 384), (3, 3, 8), (2, 3, 4)])
def test_positions_are_those_of_loops(height: int, width: int, dim: int) -> None:
    table = sincos_positions(height, width, dim)
    assert table.shape == (height * width, dim)
    quarter = dim // 4
    for cell in range(height * width):
        y, x = divmod(cell, width)
        for d in range(quarter):
            omega = 1 / 10000 ** (d / quarter)
            expected = (math.sin(y * omega), math.cos(y * omega), math.sin(x * omega), math.cos(x * omega))
            for block, value in enumerate(expected):
                assert float(table[cell, block * quarter + d]) == pytest.approx(value, abs=2e-6)


def test_weights_fill_the_authors_bounds(encoder: Encoder) -> None:
    """Uniform: all values within the bound, the largest near it, and the deviation is the bound / sqrt(3)."""
    layers = {name: layer for name, layer in encoder.model.named_modules() if isinstance(layer, nn.Linear)}
    assert len(layers) == 8
    weights: dict[str, tuple[Tensor, float]] = {}
    for name, layer in layers.items():
        rows, columns = layer.weight.shape
        rows = rows // 3 if "qkv" in name else rows
        weights[name] = (layer.weight.detach(), math.sqrt(6.0 / float(rows + columns)))
        assert not layer.bias.any(), name
    stem = encoder.model.patch_embed.proj
    weights["stem"] = (stem.weight.detach(), math.sqrt(6.0 / float(3 * 16 * 16 + 384)))
    assert not stem.bias.any()
    for name, (weight, bound) in weights.items():
        assert 0.99 * bound < float(weight.abs().max()) <= bound, name
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01), name
        assert abs(float(weight.mean())) < 0.01 * bound, name
    assert float(encoder.model.cls_token.std()) == pytest.approx(1e-6, rel=0.2)
    for layer in encoder.model.modules():
        if isinstance(layer, nn.LayerNorm):
            assert layer.eps == 1e-6
            assert bool((layer.weight == 1).all())
            assert not layer.bias.any()


def test_heads_positions_and_stem_are_the_papers(encoder: Encoder) -> None:
    assert [block.attn.num_heads for block in encoder.model.blocks] == [12, 12]
    positions = encoder.model.pos_embed
    assert not positions[:, 0].any()
    assert torch.equal(positions[0, 1:], sincos_positions(14, 14, 384))
    fixed = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert fixed == {"model.pos_embed", "model.patch_embed.proj.weight", "model.patch_embed.proj.bias"}
    trained = {id(p) for group in build_optimizer(OptimConfig(), encoder).param_groups for p in group["params"]}
    assert id(positions) not in trained


def test_timm_loads_the_export_in_one_line(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert model.blocks[0].attn.num_heads == 12
    assert torch.equal(model.pos_embed, encoder.model.pos_embed)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), encoder(images, maps=False).embedding)


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "convnext_atto", "vit_small_patch14_reg4_dinov2", "xcit_nano_12_p16_224"]
)
def test_other_models_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"encoder\.init moco-v3 is for plain vision transformers.*{name}.*to timm"):
        Encoder(EncoderConfig(name=name, init="moco-v3"))


@pytest.mark.parametrize("weights", ["hub", "dino_vits16.pth"])
def test_start_weights_replace_the_draw(weights: str) -> None:
    """And the recipe's 12 heads would take weights of 6 in silence, so the message names them."""
    with pytest.raises(UserError, match=r"weights replaces what it draws: set encoder\.init to timm.*num_heads"):
        EncoderConfig(init="moco-v3", weights=weights)
