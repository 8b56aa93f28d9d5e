"""The smallest models that still have every part, and views to feed them."""

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repre.data.views.view_recipes import MaskConfig
from repre.frameworks import (
    BYOLConfig,
    DINOConfig,
    DINOv2Config,
    FrameworkConfig,
    MoBYConfig,
    MoCoV3Config,
    Needs,
    PixelsConfig,
    SimCLRConfig,
)
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.needs import framework_needs
from repre.models.repre import ReconstructionConfig, RePre, build_model
from repre.types import Views

ENCODERS = {
    "vit": EncoderConfig(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        model_args={"embed_dim": 32, "depth": 4, "num_heads": 2},
    ),
    "swin": EncoderConfig(
        name="swin_tiny_patch4_window7_224",
        image_size=64,
        model_args={"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2), "window_size": 4},
    ),
}
SIDES = {"vit": 32, "swin": 64}
MASK_PATCH = {"vit": 8, "swin": 32}
"""Side of a hidden patch: one patch token."""
FRAMEWORKS: dict[str, FrameworkConfig] = {
    "moco-v3": MoCoV3Config(hidden_dim=24, out_dim=16),
    "dino": DINOConfig(hidden_dim=24, bottleneck_dim=8, prototypes=32, freeze_last_layer=0.0, norm_last_layer=False),
    "moby": MoBYConfig(hidden_dim=24, out_dim=16, queue=20),
    "byol": BYOLConfig(hidden_dim=24, out_dim=16),
    "simclr": SimCLRConfig(hidden_dim=24, out_dim=16),
    "pixels": PixelsConfig(),
    "dinov2": DINOv2Config(
        hidden_dim=24, bottleneck_dim=8, prototypes=32, freeze_last_layer=0.0, shared_head=False, centering="sinkhorn"
    ),
    "ibot": DINOv2Config(
        hidden_dim=24, bottleneck_dim=8, prototypes=32, freeze_last_layer=0.0, koleo_weight=0.0, patch_center="all"
    ),
}
WITHOUT_TEACHER = ("simclr", "pixels")


def needs(framework: str) -> Needs:
    return framework_needs(FRAMEWORKS[framework])


def mask_config(framework: str, encoder: str = "vit") -> MaskConfig:
    """Masks for a framework that needs them."""
    if not needs(framework).masks:
        return MaskConfig()
    return MaskConfig(kind="block", ratio=(0.1, 0.5), image_share=0.5, patch=MASK_PATCH[encoder])


def tiny_model(
    framework: str,
    encoder: str,
    *,
    weight: float = 1.0,
    seed: int = 0,
    reconstruction: dict[str, Any] | None = None,
    masked: bool = False,
    **changes: Any,
) -> RePre:
    """`changes` are those of the encoder's config, `reconstruction` of the branch's loss; `masked`: views have masks."""
    return build_model(
        encoder=replace(ENCODERS[encoder], **changes),
        framework=FRAMEWORKS[framework],
        decoder=DecoderConfig(dim=16),
        reconstruction=ReconstructionConfig(weight=weight, **(reconstruction or {})),
        seed=seed,
        mask_token=masked or needs(framework).masks,
    ).train()


def tiny_views(
    framework: str,
    encoder: str,
    *,
    batch: int = 4,
    seed: int = 0,
    masked: bool = False,
    local_share: int = 2,
    columns: float = 1,
) -> Views:
    """Two global views, and for multi-crop two local ones of half the side, or another share of it. Their width is `columns`
    times their height.

    Tests of equality in float64 take the whole side: timm resamples a ViT's positions to other grids in float32.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(side: int) -> Tensor:
        return torch.randn(batch, 3, side, round(columns * side), generator=generator)

    side = SIDES[encoder]
    images = [draw(side), draw(side)] + (
        [draw(side // local_share), draw(side // local_share)] if needs(framework).local_views else []
    )
    targets = [draw(side), draw(side)]
    masks = None
    if masked or needs(framework).masks:  # of other images in each view; every third image has none
        grid = side // MASK_PATCH[encoder]
        shape = batch, grid, round(columns * grid)
        masks = [torch.rand(shape, generator=generator) < 0.5 for _ in range(2)]
        for view, mask in enumerate(masks):
            mask[:, 0, 0] = True
            mask[view::3] = False
    return Views(images=images, targets=targets, n_global=2, masks=masks)


def double(views: Views) -> Views:
    return views.map(lambda x: x.double() if x.is_floating_point() else x)


def part(views: Views, piece: slice) -> Views:
    return views.map(operator.itemgetter(piece))
