"""Sizes of the experiments on real images: `real-toy` for the tests, `real-cpu` for two cores, `lease` for one H100.

`lease` fits nine minutes. They share one plan (real_plan.py).
"""

from dataclasses import replace
from typing import Any

from experiments.presets import CPU, GPU, TOY, Counts
from repre.evaluation.fit import FitConfig
from repre.frameworks import DINOConfig, DINOv2Config, FrameworkConfig, MoCoV3Config
from repre.models.encoder import EncoderConfig
from repre.training.optim import OptimConfig


def _frameworks(hidden_dim: int, out_dim: int, prototypes: int, *, momentum: float) -> dict[str, FrameworkConfig]:
    """Frameworks for runs of a few hundred to a few thousand steps.

    With the published temperatures so short a run leaves the prototypes' distributions almost uniform
    (docs/results.md, "DINO, iBOT and DINOv2").
    """
    head: dict[str, Any] = {
        "hidden_dim": hidden_dim, "bottleneck_dim": out_dim, "prototypes": prototypes, "norm_last_layer": True,
        "freeze_last_layer": 0.01, "teacher_temperature_start": 0.02, "teacher_temperature": 0.02,
        "teacher_temperature_warmup": 0.3, "momentum": momentum, "center_momentum": 0.8,
    }  # fmt: skip
    return {
        "moco-v3": MoCoV3Config(hidden_dim=hidden_dim, out_dim=out_dim, momentum=0.99),
        "dino": DINOConfig(**head),
        "dinov2": DINOv2Config(**head, patch_temperature=0.02),
    }


def _optim(moco_lr: float, dino_lr: float, batch_size: int) -> dict[str, OptimConfig]:
    moco = OptimConfig(
        lr=moco_lr, base_batch_size=batch_size, warmup_fraction=0.1, weight_decay=0.05, clip_grad_norm=3.0
    )
    dino = replace(moco, lr=dino_lr, min_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4)
    return {"moco-v3": moco, "dino": dino, "dinov2": dino}


def _only_vit(encoder: EncoderConfig, dim: int) -> dict[str, Any]:
    return {"encoders": {"vit": encoder}, "decoder_dim": {"vit": dim}}


REAL_TOY = replace(
    TOY, name="real-toy", plan="real", image_size=40, dense_size=32, mask_counts=(3,), end_steps=(1, 2),
    sets={
        "camvid": Counts(train=40, labeled=32, test=4, epochs=2),
        "cifar10": Counts(train=40, labeled=40, test=20, epochs=2),
        "fashion-mnist": Counts(train=40, labeled=40, test=20, epochs=2),
    },
    **_only_vit(TOY.encoders["vit"], 16),
    frameworks=_frameworks(24, 16, 32, momentum=0.9), optim=_optim(1e-3, 1e-3, 32),
    scratch=FitConfig(epochs=1, batch_size=8, lr=1e-3, layer_decay=1.0),
)  # fmt: skip
REAL_CPU = replace(
    CPU, name="real-cpu", plan="real", image_size=96, dense_size=96, mask_counts=(10, 36), end_steps=(60, 180),
    sets={
        "camvid": Counts(train=468, labeled=367, test=233, epochs=40),
        "cifar10": Counts(train=5000, labeled=5000, test=2000, epochs=3),
        "fashion-mnist": Counts(train=5000, labeled=5000, test=2000, epochs=3),
        "scenes": Counts(train=2500, labeled=1000, test=500, epochs=6),
        "fashion": Counts(train=2500, labeled=1000, test=500, epochs=6),
    },
    **_only_vit(CPU.encoders["vit"], 32),
    frameworks=_frameworks(512, 128, 256, momentum=0.98), optim=_optim(1e-3, 2e-3, 64), plain_articles=(5000, 2000),
    miou=FitConfig(epochs=10, lr=1e-2), upernet_width=32,
    scratch=FitConfig(epochs=15, batch_size=32, lr=1e-3, layer_decay=1.0),
)  # fmt: skip
LEASE = replace(
    GPU, name="lease", plan="real", image_size=192, dense_size=192, mask_counts=(10, 36), end_steps=(150, 450),
    batch_size=256, n_seeds=2, n_confirmatory_seeds=0,
    sets={
        "camvid": Counts(train=468, labeled=367, test=233, epochs=300),
        "cifar10": Counts(train=50_000, labeled=50_000, test=10_000, epochs=8),
        "fashion-mnist": Counts(train=60_000, labeled=60_000, test=10_000, epochs=5),
        "scenes": Counts(train=20_000, labeled=5000, test=2000, epochs=15),
        "fashion": Counts(train=20_000, labeled=5000, test=2000, epochs=15),
    },
    **_only_vit(EncoderConfig(name="vit_small_patch16_224", patch_size=8, model_args={"global_pool": "avg"}), 128),
    frameworks=_frameworks(2048, 256, 1024, momentum=0.99), optim=_optim(1e-3, 1e-3, 256),
    scratch=FitConfig(epochs=50, batch_size=32, lr=1e-3, layer_decay=1.0),
)  # fmt: skip
