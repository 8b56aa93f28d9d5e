"""The timm models that the encoder's tests run over: one line per model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repre.models.encoder import Encoder, EncoderConfig

VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
PYRAMID = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
# Name of the model: config (cut down to be fast, where its arguments allow), other sizes it takes, sizes it refuses.
MODELS: dict[str, tuple[dict[str, Any], list[tuple[int, int]], list[tuple[int, int]]]] = {
    "vit_tiny_patch16_224": ({"image_size": 64, "model_args": VIT}, [(96, 32)], [(40, 64)]),
    "deit3_small_patch16_224": ({"image_size": 64, "model_args": VIT}, [(32, 96)], [(40, 64)]),
    "vit_small_patch14_reg4_dinov2": ({"image_size": (56, 84), "model_args": VIT}, [(28, 56)], [(32, 32)]),
    "eva02_tiny_patch14_224": ({"image_size": 56, "model_args": VIT}, [(28, 84)], [(32, 32)]),
    "vit_small_patch16_rope_224": ({"image_size": 64, "model_args": VIT}, [(32, 96)], [(40, 64)]),
    "xcit_nano_12_p16_224": ({"image_size": 64, "model_args": {"depth": 4}}, [(96, 32)], [(72, 72)]),
    "swin_tiny_patch4_window7_224": ({"image_size": 64, "model_args": PYRAMID | {"window_size": 4}}, [(96, 40)], []),
    "swinv2_tiny_window8_256": ({"image_size": 64, "model_args": PYRAMID | {"window_size": 4}}, [(96, 40)], []),
    "pvt_v2_b0": ({"image_size": 64}, [(96, 40)], []),
    "mvitv2_tiny": ({"image_size": 64}, [], [(32, 32), (96, 64)]),
    "hiera_tiny_224": ({"image_size": 64}, [], [(96, 96)]),
    "convnext_atto": ({"image_size": 64}, [(100, 40)], []),
    "resnet18": ({"image_size": 64}, [(100, 40)], []),
}
FLAT = {"vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"}
FLAT |= {"vit_small_patch16_rope_224", "xcit_nano_12_p16_224"}
EACH_MODEL = pytest.mark.parametrize("name", MODELS)
THREE_MODELS = pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
)


def build(name: str, **changes: Any) -> Encoder:
    """A model of the table, with changes to its config, in evaluation mode."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name=name, **(MODELS[name][0] | changes))).eval()


def perturb(encoder: Encoder) -> Encoder:
    """Moves every parameter off its initial value, where norms and layer scales may hide a wrong order."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return encoder


def draw_images(size: tuple[int, int], *, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
