"""Key layouts of published checkpoints, made from random weights: the encoder gives the features of the original model."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from repre.models.encoder import Encoder, EncoderConfig
from tests.models.timm_models import draw_images, perturb

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

FLAT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
MAE_DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 5, "decoder_num_attention_heads": 1}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2}
PYRAMID = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


@dataclasses.dataclass(frozen=True)
class Source:
    """A model of transformers and the timm model of the same architecture."""

    model: str
    config: str
    arguments: dict[str, Any]
    name: str
    model_args: dict[str, Any]
    encoder: str = ""
    """Attribute of the model that holds the encoder; empty where the model is one."""
    tokens: int = 1
    """Class, distillation and register tokens before the patches."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.arguments)
        return perturb(getattr(transformers, self.model)(config).eval())  # type: ignore[arg-type]

    def load(self, path: Path, **changes: Any) -> Encoder:
        size = self.arguments["image_size"]
        patch = self.arguments["patch_size"]
        settings = {"image_size": size, "patch_size": patch if patch != 16 else None, "model_args": self.model_args}
        return Encoder(EncoderConfig(name=self.name, weights=str(path), **(settings | changes))).eval()


WIDE = {"intermediate_size": 128}
EPS = {"layer_norm_eps": 1e-6}
SOURCES = {
    "vit": Source("ViTModel", "ViTConfig", FLAT | WIDE | EPS, "vit_tiny_patch16_224", VIT),
    "deit": Source(
        "DeiTModel",
        "DeiTConfig",
        FLAT | WIDE | EPS | {"image_size": 224, "patch_size": 16},
        "deit_tiny_distilled_patch16_224",
        VIT,
        tokens=2,
    ),
    "mae": Source(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        FLAT | WIDE | EPS | MAE_DECODER | {"mask_ratio": 0.0},
        "vit_tiny_patch16_224",
        VIT,
        encoder="vit",
    ),
    "dinov2": Source("Dinov2Model", "Dinov2Config", FLAT, "vit_small_patch14_dinov2", VIT),
    "dinov2 giant": Source(
        "Dinov2Model",
        "Dinov2Config",
        FLAT | {"use_swiglu_ffn": True},
        "vit_giant_patch14_dinov2",
        VIT | {"mlp_ratio": 176 / 32},
    ),
    "dinov2 registers": Source(
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        FLAT,
        "vit_small_patch14_reg4_dinov2",
        VIT,
        encoder="dinov2_with_registers",
        tokens=5,
    ),
    "dinov3": Source(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        FLAT | WIDE | {"num_register_tokens": 4, "query_bias": False, "value_bias": False},
        "vit_small_patch16_dinov3",
        VIT,
        tokens=5,
    ),
    "dinov3 with biases": Source(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        FLAT | WIDE | {"num_register_tokens": 4},
        "vit_small_patch16_dinov3_qkvb",
        VIT,
        tokens=5,
    ),
    "dinov3 gated": Source(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        FLAT | WIDE | {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        "vit_huge_plus_patch16_dinov3_qkvb",
        VIT | {"mlp_ratio": 4.0},
        tokens=5,
    ),
    "swin": Source("SwinModel", "SwinConfig", SWIN, "swin_tiny_patch4_window7_224", PYRAMID, tokens=0),
    "swin v2": Source("Swinv2Model", "Swinv2Config", SWIN, "swinv2_tiny_window8_256", PYRAMID, tokens=0),
}
EACH_SOURCE = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def patch_tokens(encoder: Encoder, images: Tensor) -> Tensor:
    """Final-normed patch tokens [B, N, D] of the timm model."""
    tokens = encoder.model.forward_features(images)
    return tokens.flatten(1, 2) if tokens.ndim == 4 else tokens[:, encoder.model.num_prefix_tokens :]


@torch.no_grad()
@EACH_SOURCE
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_features_equal_those_of_transformers(tmp_path: Path, source: Source, kind: str) -> None:
    """Files have the older names of transformers, state dictionaries of models in memory the newer ones."""
    theirs = source.build()
    if kind == "file":
        theirs.save_pretrained(tmp_path)  # type: ignore[operator]
        encoder = source.load(tmp_path)
    else:
        torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.bin")
        encoder = source.load(tmp_path / "weights.bin")
    images = draw_images((source.arguments["image_size"],) * 2)
    model = getattr(theirs, source.encoder) if source.encoder else theirs
    expected = model(images).last_hidden_state[:, source.tokens :]
    if source.encoder == "vit":  # MAE shuffles the patches even where it masks none
        noise = torch.arange(16.0).expand(len(images), -1)
        expected = model(images, noise=noise).last_hidden_state[:, source.tokens :]
    torch.testing.assert_close(patch_tokens(encoder, images), expected, rtol=1e-4, atol=1e-4)
    report = encoder.load_report
    assert report is not None
    assert report.layout == "transformers' names"
    assert report.loaded == len(encoder.model.state_dict())
    assert (report.adapted, report.differences()) == ((), "")


def test_a_grid_that_is_not_square_is_read_from_the_config_of_transformers(tmp_path: Path) -> None:
    """2 x 8 patches are as many as 4 x 4."""
    source = dataclasses.replace(SOURCES["vit"], arguments=SOURCES["vit"].arguments | {"image_size": [16, 64]})
    theirs = source.build()
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    encoder = source.load(tmp_path, image_size=32)
    positions = theirs.state_dict()["embeddings.position_embeddings"]
    expected = resample_abs_pos_embed(positions, [4, 4], old_size=[2, 8], num_prefix_tokens=1)
    assert torch.equal(encoder.model.pos_embed, expected)
    assert encoder.load_report is not None
    assert encoder.load_report.adapted == ("position embedding resampled from 2 x 8 to 4 x 4",)


def test_registers_positions_and_patches_are_adapted_from_transformers(tmp_path: Path) -> None:
    source = SOURCES["dinov2 registers"]
    source.build().save_pretrained(tmp_path)  # type: ignore[operator]
    encoder = source.load(tmp_path, image_size=48, patch_size=4, channels=1)
    assert encoder.load_report is not None
    assert encoder.load_report.adapted == (
        "position embedding resampled from 4 x 4 to 12 x 12",
        "patch kernel resampled from 8 x 8 to 4 x 4",
        "channels adapted from 3 to 1",
    )
    assert encoder(torch.zeros(1, 1, 48, 48)).embedding.shape == (1, 32)
