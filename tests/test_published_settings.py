"""The recipes have the settings that the authors of their frameworks published; docs/method.md lists what differs."""

from typing import Any

import pytest

from repre.config_values import to_dict
from repre.models.encoder import Encoder
from repre.recipes import RECIPES, recipe

COLORS = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}
COLORS |= {"sigma": (0.1, 2.0), "flip": 0.5, "ratio": (3 / 4, 4 / 3), "threshold": 0.5}
BYOL_VIEWS = {
    **{f"views.first.{name}": value for name, value in COLORS.items()},
    **{f"views.second.{name}": value for name, value in COLORS.items()},
    "views.first.blur": 1.0,
    "views.first.solarize": 0.0,
    "views.second.blur": 0.1,
    "views.second.solarize": 0.2,
}
"""The transforms in main_moco.py, data/build.py of Transformer-SSL and main_dino.py; sigma and threshold are Pillow's."""

# github.com/facebookresearch/moco-v3 at c349e6e. CONFIG.md, "ViT-Small, 1-node (8-GPU), 1024-batch pre-training":
#   -a vit_small -b 1024 --optimizer=adamw --lr=1.5e-4 --weight-decay=.1 --epochs=300 --warmup-epochs=40
#   --stop-grad-conv1 --moco-m-cos --moco-t=.2
# The rest are defaults of main_moco.py (crop-min 0.08, moco-m 0.99, moco-dim 256, moco-mlp-dim 4096) and vits.py.
MOCO_V3 = {
    "epochs": 300,
    "batch_size": 1024,
    "encoder.init": "moco-v3",
    "encoder.freeze_patch_embed": True,
    "encoder.drop_path": 0.0,
    "encoder.patch_size": None,
    "framework.hidden_dim": 4096,
    "framework.out_dim": 256,
    "framework.temperature": 0.2,
    "framework.momentum": 0.99,
    "optim.lr": 1.5e-4,
    "optim.base_batch_size": 256,
    "optim.min_lr": 0.0,
    "optim.warmup_fraction": 40 / 300,
    "optim.warmup_lr": 0.0,
    "optim.weight_decay": 0.1,
    "optim.weight_decay_end": None,
    "optim.betas": (0.9, 0.999),
    "optim.clip_grad_norm": None,
    "views.size": 224,
    "views.n_local": 0,
    "views.first.scale": (0.08, 1.0),
    "views.first.filter": "bilinear",
    **BYOL_VIEWS,
}

# github.com/SwinTransformer/Transformer-SSL at 4510de1: configs/moby_swin_tiny.yaml and configs/moby_deit_small.yaml over
# config.py; get_started.md: 8 GPUs, --batch-size 64. moby_main.py scales all learning rates by batch / 512.
MOBY = {
    "epochs": 300,
    "batch_size": 512,
    "encoder.drop_path": 0.2,
    "framework.hidden_dim": 4096,
    "framework.out_dim": 256,
    "framework.temperature": 0.2,
    "framework.momentum": 0.99,
    "framework.queue": 4096,
    "optim.lr": 1e-3,
    "optim.base_batch_size": 512,
    "optim.min_lr": 5e-6,
    "optim.warmup_lr": 5e-7,
    "optim.warmup_fraction": 5 / 300,
    "optim.weight_decay": 0.05,
    "optim.weight_decay_end": None,
    "optim.betas": (0.9, 0.999),
    "optim.clip_grad_norm": 5.0,
    "optim.clip_per_parameter": False,
    "views.size": 224,
    "views.n_local": 0,
    "views.first.scale": (0.08, 1.0),
    "views.first.filter": "bilinear",
    **BYOL_VIEWS,
}

# github.com/facebookresearch/dino at 7c446df. README.md, "Boosting DINO performance", full command:
#   run_with_submitit.py --arch vit_small --epochs 300 --teacher_temp 0.07 --warmup_teacher_temp_epochs 30
#   --norm_last_layer false
# Its defaults are 2 nodes of 8 GPUs; the rest are defaults of main_dino.py (64 images per GPU and so on).
DINO = {
    "epochs": 300,
    "batch_size": 2 * 8 * 64,
    "encoder.drop_path": 0.1,
    "framework.hidden_dim": 2048,
    "framework.bottleneck_dim": 256,
    "framework.prototypes": 65536,
    "framework.norm_last_layer": False,
    "framework.freeze_last_layer": 1 / 300,
    "framework.momentum": 0.996,
    "framework.center_momentum": 0.9,
    "framework.student_temperature": 0.1,
    "framework.teacher_temperature_start": 0.04,
    "framework.teacher_temperature": 0.07,
    "framework.teacher_temperature_warmup": 30 / 300,
    "optim.lr": 5e-4,
    "optim.base_batch_size": 256,
    "optim.min_lr": 1e-6,
    "optim.warmup_fraction": 10 / 300,
    "optim.warmup_lr": 0.0,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.betas": (0.9, 0.999),
    "optim.clip_grad_norm": 3.0,
    "optim.clip_per_parameter": True,
    "views.size": 224,
    "views.n_local": 8,
    "views.local_size": 96,
    "views.first.scale": (0.4, 1.0),
    "views.second.scale": (0.4, 1.0),
    "views.local.scale": (0.05, 0.4),
    "views.first.filter": "bicubic",
    "views.local.filter": "bicubic",
    "views.local.blur": 0.5,
    "views.local.solarize": 0.0,
    **{f"views.local.{name}": value for name, value in COLORS.items()},
    **BYOL_VIEWS,
}
# README.md, "DINO with ViT-base network": run_with_submitit.py --nodes 2 --ngpus 8 --use_volta32 --arch vit_base
DINO_BASE = DINO | {
    "epochs": 100,
    "framework.norm_last_layer": True,
    "framework.freeze_last_layer": 1 / 100,
    "framework.teacher_temperature": 0.04,
    "framework.teacher_temperature_warmup": 0.0,
    "optim.warmup_fraction": 10 / 100,
}

MASKS = {"views.mask.kind": "block", "views.mask.ratio": (0.1, 0.5), "views.mask.image_share": 0.5}
# github.com/facebookresearch/dinov2 at b8931f7: configs/train/vitl16_short.yaml over configs/ssl_default_config.yaml.
# README.md: 4 nodes of 8 GPUs. 100 epochs of 1250 steps are 200 passes over ImageNet-1k with this batch.
DINOV2 = DINO | {
    "epochs": 200,
    "batch_size": 4 * 8 * 64,
    "encoder.drop_path": 0.3,
    "framework.norm_last_layer": False,
    "framework.freeze_last_layer": 1 / 100,
    "framework.momentum": 0.992,
    "framework.teacher_temperature_warmup": 30 / 100,
    "framework.patch_temperature": 0.07,
    "framework.shared_head": True,
    "framework.centering": "centering",
    "framework.patch_center": "masked",
    "framework.ibot_weight": 1.0,
    "framework.koleo_weight": 0.1,
    "optim.lr": 0.004 * (4 * 8 * 64 / 1024) ** 0.5,
    "optim.base_batch_size": 4 * 8 * 64,
    "optim.warmup_fraction": 10 / 100,
    "optim.clip_per_parameter": False,
    "optim.layer_decay": 0.9,
    "optim.patch_embed_lr_scale": 0.2,
    "views.first.scale": (0.32, 1.0),
    "views.second.scale": (0.32, 1.0),
    "views.local.scale": (0.05, 0.32),
    **MASKS,
}
# github.com/bytedance/ibot at da316d8. README.md, "iBOT Pre-Training with ViTs" and "with Swins"; the rest are defaults of
# main_ibot.py. 16 GPUs of 64 images. Swin-T has 40 GPUs of 26, window 14, and masks from epoch 50 on.
IBOT = DINO | {
    "epochs": 800,
    "framework.prototypes": 8192,
    "framework.freeze_last_layer": 1 / 800,
    "framework.teacher_temperature_warmup": 30 / 800,
    "framework.patch_temperature": 0.07,
    "framework.shared_head": True,
    "framework.centering": "centering",
    "framework.patch_center": "all",
    "framework.ibot_weight": 1.0,
    "framework.koleo_weight": 0.0,
    "optim.warmup_fraction": 10 / 800,
    "views.n_local": 10,
    "views.first.scale": (0.25, 1.0),
    "views.second.scale": (0.25, 1.0),
    "views.local.scale": (0.05, 0.25),
    **MASKS,
}
IBOT_SWIN = IBOT | {
    "epochs": 300,
    "framework.freeze_last_layer": 1 / 300,
    "framework.teacher_temperature_warmup": 30 / 300,
    "optim.warmup_fraction": 10 / 300,
}
PUBLISHED = {
    "vit-small-moco-v3": MOCO_V3,
    "swin-tiny-moby": MOBY,
    "vit-small-moby": MOBY,  # DeiT-S has the architecture of timm's ViT-S
    "vit-small-dino": DINO,
    "vit-base-dino": DINO_BASE,
    "vit-small-dinov2": DINOV2 | {"encoder.model_args.init_values": 1e-5},
    "vit-base-dinov2": DINOV2 | {"encoder.model_args.init_values": 1e-5},
    "vit-small-ibot": IBOT,
    "swin-tiny-ibot": IBOT_SWIN,
}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = tuple(value) if isinstance(value, list) else value
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_settings(name: str) -> None:
    here = flat(to_dict(recipe(name)))
    assert {setting: here[setting] for setting in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_setting_of_optimizer_and_framework_is_left_out(name: str) -> None:
    """What a recipe sets beside the published values must be neutral: a default that changes nothing."""
    neutral = {"optim.layer_decay": 1.0, "optim.patch_embed_lr_scale": 1.0, "framework.head_warmup": 0.0}
    neutral |= {
        "optim.schedule": "cosine",
        "optim.decay_fraction": 0.2,
        "optim.base_epochs": None,
    }  # the last two of wsd
    neutral |= {"optim.clip_per_parameter": False, "framework.name": name.split("-", 2)[2].replace("ibot", "dinov2")}
    here = flat(to_dict(recipe(name)))
    for setting, value in here.items():
        if setting.startswith(("optim.", "framework.")) and setting not in PUBLISHED[name]:
            assert value == neutral[setting], setting


def test_the_architectures_are_the_published_ones() -> None:
    """Parameters in millions as the papers' tables give them, and heads: vits.py and vision_transformer.py."""
    encoders = {
        name: Encoder(recipe(name).encoder) for name in ("vit-small-moco-v3", "vit-small-dino", "swin-tiny-moby")
    }
    millions = {name: round(sum(p.numel() for p in e.parameters()) / 1e6) for name, e in encoders.items()}
    assert millions == {"vit-small-moco-v3": 22, "vit-small-dino": 22, "swin-tiny-moby": 28}
    assert encoders["vit-small-moco-v3"].model.blocks[0].attn.num_heads == 12
    assert encoders["vit-small-dino"].model.blocks[0].attn.num_heads == 6
    assert Encoder(recipe("vit-small-moco-v3-timm").encoder).model.blocks[0].attn.num_heads == 6


def test_only_vits_are_drawn_and_frozen_as_moco_v3() -> None:
    for name in RECIPES:
        if name.endswith(("-moco-v3", "-byol", "-simclr")):
            encoder = recipe(name).encoder
            assert (encoder.init == "moco-v3") == encoder.freeze_patch_embed == name.startswith("vit-"), name
