"""The recipes: named, complete configs of runs. A recipe is a function that returns a RunConfig; a variant changes another.

Published settings: MoCo v3 (arXiv 2104.02057), DINO (2104.14294), MoBY (2105.04553). BYOL and SimCLR were published with
ResNets and LARS; for transformers their recipes take MoCo v3's ViT settings. Durations that a paper counts in epochs are
a fraction of the run here. The encoders are timm's: MoCo v3's own ViT-S has 12 heads and fixed positions, timm's has 6 and
learned ones.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import ViewsConfig, dino_views, moco_v3_views, simclr_views, simmim_views
from repre.errors import UserError, near_names
from repre.frameworks import BYOLConfig, DINOConfig, MoBYConfig, MoCoV3Config, PixelsConfig, SimCLRConfig
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training.optim import OptimConfig

ENCODERS = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
    "swin-tiny": "swin_tiny_patch4_window7_224",
    "swin-small": "swin_small_patch4_window7_224",
}


def quickstart() -> RunConfig:
    """A tiny ViT with SimCLR and the branch on the embedded scenes: a few minutes on two processor cores.

    The settings suit few, small steps: a shallow encoder, a high learning rate, no teacher that lags behind, average
    pooling, crops that keep the object, and colors changed so much that only shape and texture identify a scene.
    """
    view = ViewConfig(scale=(0.6, 1.0), jitter=1.0, saturation=0.8, hue=0.5, grayscale=0.4, blur=0.1, solarize=0.2)
    return RunConfig(
        data="scenes",
        out="runs/quickstart",
        epochs=20,
        batch_size=128,
        encoder=EncoderConfig(
            name="vit_tiny_patch16_224",
            patch_size=8,
            model_args={"embed_dim": 96, "depth": 3, "num_heads": 3, "global_pool": "avg"},
        ),
        framework=SimCLRConfig(hidden_dim=256, out_dim=64),
        decoder=DecoderConfig(dim=64),
        views=ViewsConfig(size=48, first=view, second=view),
        optim=OptimConfig(lr=2e-3, base_batch_size=128, warmup_fraction=0.1, weight_decay=0.05, clip_grad_norm=3.0),
        runtime=RuntimeConfig(eval_every_epochs=4, monitor_samples=512),
    )


def moco_v3(encoder: str) -> RunConfig:
    """MoCo v3 with its settings for ViTs: 300 epochs, AdamW, the patch embedding frozen (section 4.2)."""
    return RunConfig(
        out=f"runs/{encoder}-moco-v3",
        epochs=300,
        batch_size=1024,
        encoder=EncoderConfig(name=ENCODERS[encoder], freeze_patch_embed=encoder.startswith("vit")),
        framework=MoCoV3Config(),
        decoder=_decoder(encoder),
        views=moco_v3_views(224),
        optim=OptimConfig(lr=1.5e-4, warmup_fraction=40 / 300, weight_decay=0.1),
    )


def byol(encoder: str) -> RunConfig:
    """BYOL's heads and momentum with MoCo v3's settings for ViTs."""
    return replace(moco_v3(encoder), out=f"runs/{encoder}-byol", framework=BYOLConfig())


def simclr(encoder: str) -> RunConfig:
    """SimCLR's projector and views with MoCo v3's settings for ViTs."""
    return replace(moco_v3(encoder), out=f"runs/{encoder}-simclr", framework=SimCLRConfig(), views=simclr_views(224))


def moby(encoder: str) -> RunConfig:
    """MoBY as published for DeiT-S and Swin-T: 300 epochs, batch 512, drop path in the student."""
    return RunConfig(
        out=f"runs/{encoder}-moby",
        epochs=300,
        batch_size=512,
        encoder=EncoderConfig(name=ENCODERS[encoder], drop_path=0.2),
        framework=MoBYConfig(),
        decoder=_decoder(encoder),
        views=moco_v3_views(224),
        optim=OptimConfig(lr=1e-3, base_batch_size=512, warmup_fraction=5 / 300, weight_decay=0.05),
    )


def dino(encoder: str) -> RunConfig:
    """DINO with multi-crop: 100 epochs, batch 1024, weight decay 0.04 to 0.4, gradient clipped at 3."""
    return RunConfig(
        out=f"runs/{encoder}-dino",
        epochs=100,
        batch_size=1024,
        encoder=EncoderConfig(name=ENCODERS[encoder], drop_path=0.1),
        framework=DINOConfig(),
        decoder=_decoder(encoder),
        reconstruction=ReconstructionConfig(weight=1.0),  # DINO's gradient is a tenth of MoCo v3's
        views=dino_views(224, local_size=96, n_local=8),
        optim=OptimConfig(
            lr=5e-4, min_lr=1e-6, warmup_fraction=0.1, weight_decay=0.04, weight_decay_end=0.4, clip_grad_norm=3.0
        ),
    )


def pixels(encoder: str) -> RunConfig:
    """SimMIM as published, with RePre's decoder: ViT-B's settings for ViTs, those of Swin-B in 100 epochs for Swins.

    ViTs pool by average: the class token gets no gradient. Swins have 192 pixels and windows of 6 x 6.
    """
    is_vit = encoder.startswith("vit")
    return RunConfig(
        out=f"runs/{encoder}-pixels",
        epochs=800 if is_vit else 100,
        batch_size=2048,
        encoder=EncoderConfig(
            name=ENCODERS[encoder],
            drop_path=0.1 if is_vit else 0.0,
            model_args={"global_pool": "avg"} if is_vit else {"window_size": 6},
        ),
        framework=PixelsConfig(),
        decoder=_decoder(encoder),
        reconstruction=ReconstructionConfig(weight=1.0),
        views=simmim_views(224 if is_vit else 192),
        optim=OptimConfig(
            lr=1e-4 if is_vit else 2e-4,
            base_batch_size=512,
            min_lr=0.0 if is_vit else 4e-5,  # 1e-5 per 512 images
            warmup_fraction=10 / 800 if is_vit else 0.1,
            weight_decay=0.05,
            clip_grad_norm=5.0,
        ),
    )


def _decoder(encoder: str) -> DecoderConfig:
    """The decoder's size: a pyramid's finest grid has sixteen times the cells of a ViT's, so its decoder is narrower."""
    return DecoderConfig(dim=64 if encoder.startswith("swin") else 128)


RECIPES: dict[str, Callable[[], RunConfig]] = {"quickstart": quickstart} | {
    f"{encoder}-{name}": partial(recipe, encoder)
    for name, recipe in (("moco-v3", moco_v3), ("dino", dino), ("moby", moby), ("byol", byol), ("simclr", simclr))
    for encoder in ENCODERS
}
RECIPES |= {f"{encoder}-pixels": partial(pixels, encoder) for encoder in ENCODERS}


def recipe(name: str) -> RunConfig:
    """The config of a recipe by name; UserError with near names if there is none."""
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}{near_names(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()
