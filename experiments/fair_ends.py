"""Training end to end with settings that are chosen for each start: what a start is worth to somebody who tunes.

For every number of masks, a fifth of the labeled images is held out. UPerNet and encoder are trained on the rest with three
learning rates; then, at the best one, without layer-wise rates; then, at the best of these, for longer. The settings that
score best on the held-out images are trained once more on all labeled images and tested. Every start has the same
candidates and so the same budget.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.presets import Preset
from repre.config_values import to_dict
from repre.data.labels.splits import label_subset
from repre.evaluation.fit import FitConfig
from repre.evaluation.metrics import with_fraction
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.resolve import ResolvedEncoder, resolve_encoder

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
LAYER_DECAYS = (0.75, 1.0)
BATCH_SIZE = 16
HELD_OUT = 5
"""One labeled image in so many is held out."""


def fair_ends(
    spec: str, dense: Path, preset: Preset, *, seed: int, runtime: RuntimeOptions, out: Path
) -> dict[str, Any]:
    """Returns the test mIoU of the chosen settings at every number of masks, with all candidates in the details.

    Args:
        spec: the encoder, as `--encoder` accepts it.
        dense: folder of the images with masks.
        out: folder for repre's own result files and the subsets of the images.
    """
    resolved = resolve_encoder(spec)
    images = sorted((dense / "train" / "images").iterdir())
    counts = [*(count for count in preset.mask_counts if count >= HELD_OUT * 2), len(images)]
    fractions = [count / len(images) for count in counts]
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"weights_norm": weights_norm(resolved, seed)}
    for count, fraction in zip(counts, fractions):
        labeled = [images[index] for index in label_subset(len(images), fraction, seed=seed)]
        held = labeled[::HELD_OUT]
        folder = out / "ends" / f"{count}-seed{seed}"
        parts = {"all": labeled, "fit": [path for path in labeled if path not in held], "held": held}
        pairs = {name: _linked(folder / name, paths) for name, paths in parts.items()}
        test = f"pairs:{dense}/val/images,{dense}/val/masks"

        def miou(fit: FitConfig, train: str = pairs["fit"], tested: str = pairs["held"]) -> float:
            config = SegmentConfig(
                data=train, test=tested, head="upernet", width=preset.upernet_width, size=preset.dense_size, seed=seed,
                fit=fit, runtime=runtime,
            )  # fmt: skip
            return evaluate("segment", resolved, config, out=out / "ends", reuse=True, keep_model=False)["metrics"][
                "miou"
            ]

        chosen, candidates = choose(miou, images=len(parts["fit"]), steps=preset.end_steps)
        final = replace(chosen, epochs=_epochs(_steps(chosen, len(parts["fit"])), len(labeled)))
        metrics[with_fraction("miou", fraction, fractions)] = miou(final, pairs["all"], test)
        details[str(count)] = {"chosen": _settings(final), "candidates": candidates}
    config = {"steps": list(preset.end_steps), "learning_rates": list(LEARNING_RATES), "label_fraction": fractions}
    return {"metrics": metrics, "config": config, "details": details}


def choose(score: Any, *, images: int, steps: tuple[int, int]) -> tuple[FitConfig, list[dict[str, float]]]:
    """Returns the best of five trainings, and all of them with their scores.

    Args:
        score: maps a `FitConfig` to its score on held-out images.
        images: number of images to train on.
        steps: length of a training, and of the longer one.
    """
    short, long = (_epochs(count, images) for count in steps)
    tried: dict[FitConfig, float] = {}

    def best(candidates: list[FitConfig]) -> FitConfig:
        tried.update({fit: score(fit) for fit in candidates if fit not in tried})
        return max(tried, key=lambda fit: tried[fit])

    layer_decay, no_decay = LAYER_DECAYS
    base = FitConfig(epochs=short, batch_size=BATCH_SIZE, layer_decay=layer_decay)
    found = best([replace(base, lr=lr) for lr in LEARNING_RATES])
    found = best([replace(found, layer_decay=no_decay)])
    found = best([replace(found, epochs=long)])
    return found, [_settings(fit) | {"miou": value} for fit, value in tried.items()]


@torch.no_grad()
def weights_norm(resolved: ResolvedEncoder, seed: int) -> float:
    """Norm of all matrices of the encoder's blocks: a step of the same length changes larger weights less."""
    encoder = resolved.build(seed=seed)
    squares = [
        value.square().sum() for name, value in encoder.named_parameters() if "blocks" in name and value.ndim == 2
    ]
    return float(torch.stack(squares).sum().sqrt())


def _steps(fit: FitConfig, images: int) -> int:
    return fit.passes * max(1, images // BATCH_SIZE)


def _epochs(steps: int, images: int) -> int:
    return max(1, round(steps / max(1, images // BATCH_SIZE)))


def _settings(fit: FitConfig) -> dict[str, float]:
    plain = to_dict(fit)
    return {name: plain[name] for name in ("lr", "layer_decay", "epochs")}


def _linked(folder: Path, images: list[Path]) -> str:
    """Links images and their masks into a folder; returns them as the value of `--data`."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in images:
            target = folder / kind / f"{path.stem}.png"
            if not target.exists():
                os.link(path.parents[1] / kind / f"{path.stem}.png", target)
    return f"pairs:{folder}/images,{folder}/masks"
