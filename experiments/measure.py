"""One figure: an evaluation of repre with the preset's sizes, through its public functions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.datasets import labels_of, masks_of, objects_of
from experiments.presets import Preset
from repre.config import to_dict
from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.data.loading.loader import stack
from repre.data.views.render import make_views
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.knn import KNNConfig, knn_predict
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.detection.detect import DetectConfig
from repre.evaluation.features import cached_features, eval_transform
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate as stored
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import build_model
from repre.models.resolve import load_model, resolve_encoder
from repre.training.monitoring.gradient_balance import gradient_balance
from repre.types import Batch
from repre.utils.safe_load import content_hash

GRADIENT_IMAGES = 64
WHOLE_IMAGE = ("knn", "linear", "objects")
"""Evaluations of labels of whole images; they see images with one object."""


def evaluate(
    name: str, spec: str, preset: Preset, *, dense: Path, single: Path, seed: int, runtime: RuntimeOptions, out: Path
) -> dict[str, Any]:
    """Metrics, details and config of one evaluation of the encoder `spec`."""
    if name == "objects":
        return by_object(spec, single, seed=seed, runtime=runtime)
    if name == "gradients":
        return gradients(Path(spec), str(dense / "train" / "images"))
    kind, config = configs(preset, dense=dense, single=single)[name]
    config = replace(config, seed=seed, runtime=runtime)
    found = stored(kind, resolve_encoder(spec), config, out=out, reuse=True)
    return {key: found[key] for key in ("metrics", "main", "config", "details")}


def configs(preset: Preset, *, dense: Path, single: Path) -> dict[str, tuple[str, Any]]:
    """Every evaluation of the plan: the name that repre gives it, and its config."""
    masks = masks_of(dense)
    linear = SegmentConfig(data=masks, fit=preset.miou)
    foreground = replace(linear, data=masks_of(dense / "foreground"))
    upernet = SegmentConfig(data=masks, head="upernet", width=preset.upernet_width, fit=preset.upernet)
    detect = DetectConfig(data=f"coco:{dense}", width=preset.detect_width, fit=preset.detect)
    detect_foreground = replace(detect, data=f"coco:{dense / 'foreground'}")
    return {
        "knn": ("knn", KNNConfig(data=labels_of(single), size=preset.size)),
        "linear": ("linear", LinearConfig(data=labels_of(single), size=preset.size, steps=preset.linear_steps)),
        "miou": ("segment", linear),
        "foreground": ("segment", foreground),
        "upernet": ("segment", upernet),
        "foreground-upernet": ("segment", replace(upernet, data=foreground.data)),
        "detect": ("detect", detect),
        "foreground-detect": ("detect", detect_foreground),
        "foreground-labels": ("segment", replace(foreground, label_fraction=preset.fractions)),
        "miou-labels": ("segment", replace(linear, label_fraction=preset.fractions)),
        "detect-labels": ("detect", replace(detect, label_fraction=preset.fractions)),
        "foreground-detect-labels": ("detect", replace(detect_foreground, label_fraction=preset.fractions)),
    }


def by_object(spec: str, single: Path, *, seed: int, runtime: RuntimeOptions) -> dict[str, Any]:
    """k-NN, told by source object: right answers and images of each, for a bootstrap over objects."""
    start = resolve_encoder(spec)
    encoder = start.build(seed=seed).to(runtime.torch_device)
    transform = eval_transform(start, encoder)
    splits = open_labeled(labels_of(single), channels=encoder.config.channels, canvas=transform.canvas)
    train, test = (cached_features(encoder, part, transform, runtime=runtime) for part in (splits.train, splits.test))
    truth = torch.from_numpy(splits.test.targets)
    found = knn_predict(train, torch.from_numpy(splits.train.targets), test, classes=len(splits.classes))
    right, counts = {}, {}
    for name, hit in zip(objects_of(single), (found == truth).tolist(), strict=True):
        right[name] = right.get(name, 0) + int(hit)
        counts[name] = counts.get(name, 0) + 1
    share = sum(right.values()) / len(truth)
    objects = {name: [right[name], counts[name]] for name in sorted(counts)}
    return {"metrics": {"knn20": share}, "main": "knn20", "config": {"seed": seed}, "details": {"objects": objects}}


def gradients(run: Path, images: str) -> dict[str, Any]:
    """The branch's gradient over the contrastive one, by a run's model as it began and as it ended, in evaluation mode.

    gradient_ratio_start, gradient_ratio_end: the largest over three depths of the encoder (docs/monitors.md); 0 where the
    branch takes no part.
    """
    model, config = load_model(run)
    source = open_source(images, channels=config.encoder.channels, canvas=config.decode_size)
    positions = torch.arange(min(GRADIENT_IMAGES, len(source)))
    pixels, sizes = stack([source.load(place) for place in positions.tolist()], canvas=config.decode_size)
    batch = Batch(pixels, sizes, positions, positions, epoch=0)
    views = make_views(batch, config.views, seed=config.seed, device=torch.device("cpu"))
    began = build_model(
        encoder=config.encoder_at_size, framework=config.framework, decoder=config.decoder,
        reconstruction=config.reconstruction, seed=config.seed,
    ).eval()  # fmt: skip
    with torch.no_grad():
        first, last = (
            gradient_balance(each, views, progress=progress).get("gradient_ratio", 0.0)
            for each, progress in ((began, 0.0), (model, 1.0))
        )
    metrics = {"gradient_ratio_start": first, "gradient_ratio_end": last}
    return {"metrics": metrics, "main": "gradient_ratio_end", "config": {"images": len(positions)}, "details": {}}


def supervised(preset: Preset, data: str) -> FinetuneConfig:
    """How the supervised start is trained, from scratch."""
    return FinetuneConfig(data=data, size=preset.size, fit=preset.supervised, save_encoder=True)


def supervise(
    encoder: EncoderConfig, config: FinetuneConfig, *, seed: int, runtime: RuntimeOptions, out: Path
) -> dict[str, Any]:
    """Trains the encoder on labels, or gives the result of when it was; it lies beside the result's path."""
    config = replace(config, seed=seed, runtime=runtime)
    return stored("finetune", resolve_encoder(random_spec(encoder)), config, out=out / "supervised", reuse=True)


def fingerprint(spec: str) -> str:
    """Tells the weights of one encoder from those of another."""
    return content_hash(resolve_encoder(spec).build(seed=0).state_dict())[:12]


def random_spec(encoder: EncoderConfig) -> str:
    """The encoder without training, as `--encoder` writes it."""
    plain = to_dict(encoder)
    settings = {"image_size": plain["image_size"], "patch_size": plain["patch_size"], **plain["model_args"]}
    words = ",".join(f"{key}={value!r}" for key, value in settings.items() if value is not None)
    return f"random:{encoder.name}[{words}]"
