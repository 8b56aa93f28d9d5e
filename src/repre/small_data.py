"""The recipe small-data: settings for a few hundred to tens of thousands of images, chosen by their number.

The published recipes are made for a million images. With a few hundred, their learning rate shrinks with the batch until
nothing is learned, and their epochs are too few steps. docs/small-data.md has the measurements behind the table here.
"""

import math
from dataclasses import dataclass, replace

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.view_recipes import moco_v3_views
from repre.errors import UserError
from repre.frameworks import MoCoV3Config
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training.optim import OptimConfig

FEWEST = 10
"""Images below which nothing is pre-trained."""
MOST = 200_000
"""Images above which the published recipes suit better."""
LR = 5e-4
"""Peak learning rate for a batch of 64; it changes with the square root of the batch, as AdamW's noise does."""
LARGER_ENCODER = 5_000
"""Images from which on the encoder is ViT-S instead of ViT-Ti."""
MOST_BATCH = 128
"""Images of the largest step; from 500 images on."""
EPOCHS, MOST_EPOCHS = 200, 400
"""Passes over a thousand images; ten times the images have 0.63 times the passes and so six times the steps."""


@dataclass(frozen=True)
class SmallSettings:
    """What depends on the number of images.

    Attributes:
        encoder: timm's name.
        size: side of the views in pixels.
        batch_size: images of a step.
        lr: peak learning rate of the optimizer, for this batch.
        epochs: passes over the data.
        crop: smallest share of an image's area that a view covers.
        warmup_fraction: share of the run in which the learning rate rises.
    """

    encoder: str
    size: int
    batch_size: int
    lr: float
    epochs: int
    crop: float
    warmup_fraction: float


def settings_for(images: int) -> SmallSettings:
    """Chooses the settings for a number of images; they depend on nothing else.

    Raises:
        UserError: fewer than ten images.
    """
    if images < FEWEST:
        raise UserError(
            f"the recipe small-data needs at least {FEWEST} images, but there are {images}: add images to --data, or use an "
            "encoder that is trained already: repre embed --encoder vit_small_patch14_dinov2.lvd142m --data FOLDER "
            "--out FILE.npz"
        )
    batch = min(max(2 ** int(math.log2(images / 4)), 8), MOST_BATCH)
    return SmallSettings(
        encoder="vit_small_patch16_224" if images >= LARGER_ENCODER else "vit_tiny_patch16_224",
        size=160,
        batch_size=batch,
        lr=float(f"{LR * (batch / 64) ** 0.5:.1e}"),
        epochs=min(round(EPOCHS * (1000 / images) ** 0.2), MOST_EPOCHS),
        crop=0.2,
        warmup_fraction=0.1,
    )


def small_data(images: int = 1000) -> RunConfig:
    """The run for a number of images: MoCo v3 with the branch, timm's ViT, no frozen patch embedding, clipped gradients.

    Raises:
        UserError: fewer than ten images.
    """
    chosen = settings_for(images)
    views = moco_v3_views(chosen.size)
    first, second = (replace(view, scale=(chosen.crop, 1.0)) for view in (views.first, views.second))
    return RunConfig(
        out="runs/small-data",
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        encoder=EncoderConfig(name=chosen.encoder),
        framework=MoCoV3Config(),
        decoder=DecoderConfig(dim=64),
        reconstruction=ReconstructionConfig(weight=10.0),
        views=replace(views, first=first, second=second),
        optim=OptimConfig(
            lr=chosen.lr,
            base_batch_size=chosen.batch_size,
            warmup_fraction=chosen.warmup_fraction,
            weight_decay=0.05,
            clip_grad_norm=3.0,
        ),
        runtime=RuntimeConfig(eval_every_epochs=max(1, chosen.epochs // 10)),
    )
