"""Encoder and head as one model."""

import pytest
import torch

from repre.evaluation.segmentation.segmentation_heads import LinearHead, resize
from repre.evaluation.segmentation.segmenter import Segmenter
from repre.models.encoder import Encoder, EncoderConfig


@pytest.mark.parametrize("norm", [True, False])
def test_a_frozen_encoder_is_not_touched(norm: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(
        EncoderConfig(
            name="convnext_atto",
            image_size=64,
            drop_path=0.5,
            model_args={"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)},
        )
    )
    head = LinearHead(encoder.widths, 3, frozen=True)
    frozen = Segmenter(encoder, head, [0, 1, 2, 3], norm=norm, frozen=True).train()
    assert not encoder.training
    assert head.training
    images = torch.randn(2, 3, 64, 64)
    frozen(images).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    with torch.no_grad():
        frozen.eval()
        from_maps = resize(head(encoder(images, norm=norm).maps), (64, 64))
        torch.testing.assert_close(frozen(images), from_maps)
