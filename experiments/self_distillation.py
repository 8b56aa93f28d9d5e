"""DINO, iBOT and DINOv2 on the embedded scenes at two-core size, with and without the branch: k-NN and linear mIoU.

    python -m experiments.self_distillation                     # prints a table; run it again to resume
    python -m experiments.self_distillation --methods dino ibot --seeds 0 1

All runs see the same views of the same images. The temperatures and the momentum suit 500 steps: with the published ones so
few leave the prototypes' distributions almost uniform.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from repre.api import pretrain
from repre.config import RunConfig, RuntimeConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.frameworks import DINOConfig, DINOv2Config
from repre.models.decoder import DecoderConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import ReconstructionConfig
from repre.models.resolve import resolve_encoder
from repre.training.optim import OptimConfig

SIZE = 48
HEAD: dict[str, Any] = {
    "hidden_dim": 512, "bottleneck_dim": 128, "prototypes": 256, "norm_last_layer": True, "freeze_last_layer": 0.01,
    "teacher_temperature_start": 0.02, "teacher_temperature": 0.02, "teacher_temperature_warmup": 0.3,
    "momentum": 0.98, "center_momentum": 0.8,
}  # fmt: skip
FRAMEWORKS = {
    "dino": DINOConfig(**HEAD),
    "ibot": DINOv2Config(**HEAD, patch_temperature=0.02, koleo_weight=0.0, patch_center="all"),
    "dinov2": DINOv2Config(**HEAD, patch_temperature=0.02),
}
METHODS = [f"{name}{branch}" for name in FRAMEWORKS for branch in ("", "+branch")]
BLOCKS = MaskConfig(kind="block", ratio=(0.1, 0.5), image_share=0.5)


def config(method: str, *, seed: int, out: Path, images: int, epochs: int) -> RunConfig:
    """Returns the run of a method, such as ``ibot+branch``."""
    name, _, branch = method.partition("+")
    view = ViewConfig(scale=(0.6, 1.0), jitter=1.0, saturation=0.8, hue=0.5, grayscale=0.4, blur=0.1, solarize=0.2)
    views = ViewsConfig(
        size=SIZE, first=view, second=view, n_local=2, local_size=24, local=replace(view, scale=(0.2, 0.6))
    )
    model_args = {"embed_dim": 96, "depth": 4, "num_heads": 3, "global_pool": "avg"}
    return RunConfig(
        data=f"scenes:{images}:{SIZE}",
        out=str(out / f"{method}-{seed}"),
        epochs=epochs,
        batch_size=64,
        seed=seed,
        encoder=EncoderConfig(name="vit_tiny_patch16_224", patch_size=8, model_args=model_args),
        framework=FRAMEWORKS[name],
        decoder=DecoderConfig(dim=64),
        reconstruction=ReconstructionConfig(weight=1.0 if branch else 0.0, masked_pixels="all"),
        views=views if name == "dino" else replace(views, mask=BLOCKS),
        optim=OptimConfig(
            lr=2e-3, base_batch_size=64, min_lr=1e-6, warmup_fraction=0.1, weight_decay=0.04, weight_decay_end=0.4,
            clip_grad_norm=3.0,
        ),
        runtime=RuntimeConfig(device="cpu", workers=0, eval_every_epochs=epochs, monitors=False),
    )  # fmt: skip


def measure(encoder: str, *, out: Path, labeled: int, epochs: int) -> dict[str, float]:
    """Returns k-NN accuracy and linear mIoU of an encoder on scenes that no run has seen."""
    runtime = RuntimeOptions(device="cpu", workers=0)
    resolved, data = resolve_encoder(encoder), f"scenes:{labeled}:{SIZE}"
    configs = {
        "knn": KNNConfig(data=data, size=SIZE, runtime=runtime),
        "segment": SegmentConfig(data=data, size=SIZE, fit=FitConfig(epochs=epochs, lr=1e-2), runtime=runtime),
    }
    results = (evaluate(name, resolved, config, out=out, reuse=True) for name, config in configs.items())
    return {result["main"]: result["metrics"][result["main"]] for result in results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="methods to compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of the pre-trainings")
    parser.add_argument("--out", type=Path, default=Path("runs/self-distillation"), help="folder of the runs")
    parser.add_argument("--images", type=int, default=4000, help="scenes to pre-train on")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each pre-training")
    parser.add_argument("--labeled", type=int, default=2000, help="scenes with labels")
    parser.add_argument("--fit-epochs", type=int, default=20, help="epochs of the linear segmentation head")
    args = parser.parse_args()
    measured: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        for method in args.methods:
            run = config(method, seed=seed, out=args.out, images=args.images, epochs=args.epochs)
            pretrain(run)
            metrics = measure(run.out, out=Path(run.out), labeled=args.labeled, epochs=args.fit_epochs)
            measured.setdefault(method, []).append(metrics)
    start = f"random:{run.out}"
    measured["random init"] = [measure(start, out=args.out / "random", labeled=args.labeled, epochs=args.fit_epochs)]
    names = list(next(iter(measured.values()))[0])
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for label, rows in measured.items():
        print(
            f"| {label} | " + " | ".join(", ".join(f"{100 * row[name]:.1f}" for row in rows) for name in names) + " |"
        )


if __name__ == "__main__":
    main()
