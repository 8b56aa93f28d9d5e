"""The recipes: named, complete configs of runs. A recipe is a function that returns a RunConfig; a variant changes another.

Published settings: MoCo v3 (arXiv 2104.02057), DINO (2104.14294), MoBY (2105.04553), each of one run that its authors give
a command for. BYOL and SimCLR were published with ResNets and LARS; for transformers their recipes take MoCo v3's ViT
settings. Durations that the authors count in epochs are a fraction of the run here. docs/method.md lists every difference.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import MaskConfig, ViewsConfig, dino_views, moco_v3_views, simclr_views, simmim_views
from repre.errors import UserError, near_names
from repre.frameworks import BYOLConfig, DINOConfig, DINOv2Config, MoBYConfig, MoCoV3Config, PixelsConfig, SimCLRConfig
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.small_data import small_data
from repre.training.optim import OptimConfig

ENCODERS = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
    "swin-tiny": "swin_tiny_patch4_window7_224",
    "swin-small": "swin_small_patch4_window7_224",
}
BLOCKS = MaskConfig(kind="block", ratio=(0.1, 0.5), image_share=0.5)
"""The masks of iBOT and DINOv2: half of the views have blocks of hidden patches, 10 % to 50 % of all."""
ALL_PIXELS = ReconstructionConfig(weight=1.0, masked_pixels="all")
"""The branch beside a framework with masks: it rebuilds all pixels, as beside the others, not the hidden ones alone."""


def quickstart() -> RunConfig:
    """A tiny ViT with SimCLR and the branch on the embedded scenes: a few minutes on two processor cores.

    The settings suit few, small steps: a shallow encoder, a high learning rate, no teacher that lags behind, average
    pooling, crops that keep the object, and colors changed so much that only shape and texture identify a scene. The
    reconstructions are therefore gray. Views that show the branch the true colors keep color in the features and cost k-NN
    (docs/results.md, "The quickstart").
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
    """MoCo v3's command for ViT-S on one node: 300 epochs, AdamW, its own ViT, the patch embedding frozen (section 4.2)."""
    config = EncoderConfig(name=ENCODERS[encoder])
    if encoder.startswith("vit"):
        config = replace(config, init="moco-v3", freeze_patch_embed=True)
    if encoder == "vit-small":  # timm's has 6 heads
        config = replace(config, model_args={"num_heads": 12})
    return RunConfig(
        out=f"runs/{encoder}-moco-v3",
        epochs=300,
        batch_size=1024,
        encoder=config,
        framework=MoCoV3Config(),
        decoder=_decoder(encoder),
        views=moco_v3_views(224),
        optim=OptimConfig(lr=1.5e-4, warmup_fraction=40 / 300, weight_decay=0.1),
    )


def moco_v3_on_timm(encoder: str) -> RunConfig:
    """MoCo v3's settings with timm's ViT: its heads, its start and learned positions, so the hub's weights fit."""
    config = EncoderConfig(name=ENCODERS[encoder], freeze_patch_embed=True)
    return replace(moco_v3(encoder), out=f"runs/{encoder}-moco-v3-timm", encoder=config)


def byol(encoder: str) -> RunConfig:
    """BYOL's heads and momentum with MoCo v3's ViT and settings."""
    return replace(moco_v3(encoder), out=f"runs/{encoder}-byol", framework=BYOLConfig())


def simclr(encoder: str) -> RunConfig:
    """SimCLR's projector and views with MoCo v3's ViT and settings."""
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
        optim=OptimConfig(
            lr=1e-3,
            base_batch_size=512,
            min_lr=5e-6,
            warmup_fraction=5 / 300,
            warmup_lr=5e-7,
            weight_decay=0.05,
            clip_grad_norm=5.0,
        ),
    )


def dino(encoder: str) -> RunConfig:
    """DINO's full command for ViT-S/16 with multi-crop: 300 epochs, batch 1024, each parameter's gradient clipped at 3.

    The prototypes of other encoders keep length 1: the authors call learned lengths safe with ViT-S alone. ViT-B follows the
    authors' command for it: 100 epochs and a constant temperature of the teacher.
    """
    epochs = 100 if encoder == "vit-base" else 300
    framework = DINOConfig(norm_last_layer=encoder != "vit-small", freeze_last_layer=1 / epochs)
    if encoder == "vit-base":
        framework = replace(framework, teacher_temperature=0.04, teacher_temperature_warmup=0.0)
    return RunConfig(
        out=f"runs/{encoder}-dino",
        epochs=epochs,
        batch_size=1024,
        encoder=EncoderConfig(name=ENCODERS[encoder], drop_path=0.1),
        framework=framework,
        decoder=_decoder(encoder),
        reconstruction=ReconstructionConfig(weight=1.0),  # DINO's gradient is a tenth of MoCo v3's
        views=dino_views(224, local_size=96, n_local=8, split=0.4),
        optim=OptimConfig(
            lr=5e-4,
            min_lr=1e-6,
            warmup_fraction=10 / epochs,
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip_grad_norm=3.0,
            clip_per_parameter=True,
        ),
    )


def dino_released(encoder: str) -> RunConfig:
    """DINO with what is known of the run behind the released ViT-S/16: 800 epochs, ten small crops, areas split at 0.25.

    The authors keep its arguments beside the weights, not with the code; the rest is that of their full command.
    """
    command = dino(encoder)
    views = dino_views(224, local_size=96, n_local=10, split=0.25)
    framework = DINOConfig(norm_last_layer=False, teacher_temperature_warmup=30 / 800, freeze_last_layer=1 / 800)
    optim = replace(command.optim, warmup_fraction=10 / 800)
    out = f"runs/{encoder}-dino-released"
    return replace(command, out=out, epochs=800, framework=framework, views=views, optim=optim)


def dinov2(encoder: str) -> RunConfig:
    """DINOv2's run on ImageNet-1k: 125,000 steps with 2048 images, layers with their own learning rates, LayerScale.

    The authors made it with ViT-L/16 alone, and distilled smaller models from a larger one. Their learning rate, 0.004 for
    1024 images, grows with the square root of the batch; this is its value for 2048.
    """
    is_vit = encoder.startswith("vit")
    return RunConfig(
        out=f"runs/{encoder}-dinov2",
        epochs=200,
        batch_size=2048,
        encoder=EncoderConfig(
            name=ENCODERS[encoder], drop_path=0.3, model_args={"init_values": 1e-5} if is_vit else {}
        ),
        framework=DINOv2Config(),
        decoder=_decoder(encoder),
        reconstruction=ALL_PIXELS,
        views=replace(dino_views(224, local_size=96, n_local=8, split=0.32), mask=BLOCKS),
        optim=OptimConfig(
            lr=0.004 * 2**0.5,
            base_batch_size=2048,
            min_lr=1e-6,
            warmup_fraction=0.1,
            weight_decay=0.04,
            weight_decay_end=0.4,
            clip_grad_norm=3.0,
            layer_decay=0.9,
            patch_embed_lr_scale=0.2,
        ),
    )


def ibot(encoder: str) -> RunConfig:
    """iBOT's command for ViT-S/16, 800 epochs, and for Swin-T, 300 epochs; DINO's optimizer, 10 small views.

    ViT-B has the command of ViT-S with prototypes of length 1, as the authors advise: their own for it cannot be read.
    """
    epochs = 300 if encoder.startswith("swin") else 800
    like = dino("vit-small")
    framework = DINOv2Config(
        prototypes=8192,
        momentum=0.996,
        teacher_temperature_warmup=30 / epochs,
        freeze_last_layer=1 / epochs,
        norm_last_layer=encoder == "vit-base",
        patch_center="all",
        koleo_weight=0.0,
    )
    return replace(
        like,
        out=f"runs/{encoder}-ibot",
        epochs=epochs,
        encoder=replace(like.encoder, name=ENCODERS[encoder]),
        framework=framework,
        decoder=_decoder(encoder),
        reconstruction=ALL_PIXELS,
        views=replace(dino_views(224, local_size=96, n_local=10, split=0.25), mask=BLOCKS),
        optim=replace(like.optim, warmup_fraction=10 / epochs),
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
            min_lr=0.0 if is_vit else 4e-5,  # this and the next one are the authors', times 2048 / 512
            warmup_lr=2e-6 if is_vit else 4e-6,
            warmup_fraction=10 / 800 if is_vit else 0.1,
            weight_decay=0.05,
            clip_grad_norm=5.0,
        ),
    )


def _decoder(encoder: str) -> DecoderConfig:
    """The decoder's size: a pyramid's finest grid has sixteen times the cells of a ViT's, so its decoder is narrower."""
    return DecoderConfig(dim=64 if encoder.startswith("swin") else 128)


BY_IMAGES: dict[str, Callable[[int], RunConfig]] = {"small-data": small_data}
"""Recipes that depend on the number of images."""
FRAMEWORK_RECIPES: dict[str, Callable[[str], RunConfig]] = {
    "moco-v3": moco_v3,
    "dino": dino,
    "moby": moby,
    "byol": byol,
    "simclr": simclr,
    "dinov2": dinov2,
    "ibot": ibot,
    "pixels": pixels,
}
RECIPES: dict[str, Callable[[], RunConfig]] = {"quickstart": quickstart, "small-data": small_data} | {
    f"{encoder}-{name}": partial(recipe, encoder) for name, recipe in FRAMEWORK_RECIPES.items() for encoder in ENCODERS
}
RECIPES["vit-small-moco-v3-timm"] = partial(moco_v3_on_timm, "vit-small")
RECIPES["vit-small-dino-released"] = partial(dino_released, "vit-small")


def recipe(name: str, *, images: int | None = None) -> RunConfig:
    """The config of a recipe by name.

    Args:
        images: number of images, for a recipe that depends on it; None: that of its example.

    Raises:
        UserError: no such recipe (the message has near names), or too few images for it.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}{near_names(name, RECIPES)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]() if images is None or name not in BY_IMAGES else BY_IMAGES[name](images)


def fit_to_images(name: str, config: RunConfig) -> RunConfig | None:
    """The recipe of a name, chosen for the images that a config names; None for recipes that fit any number of images.

    Raises:
        UserError: the images cannot be opened, or are too few.
    """
    return recipe(name, images=len(config.open_source())) if name in BY_IMAGES else None
