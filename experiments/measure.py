"""Measures one evaluation of one encoder with repre's own functions, at the sizes of a preset."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.datasets import images_spec, labels_spec, main_objects, masks_spec
from experiments.fair_ends import fair_ends
from experiments.presets import Preset
from repre.config_values import to_dict
from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.data.loading.loader import stack
from repre.data.views.render import make_views
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.knn import KNNConfig, knn_votes
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.detection.detect import DetectConfig
from repre.evaluation.features import cached_features, eval_transform
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.patch_knn import PatchKNNConfig
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import build_model
from repre.models.resolve import load_model, resolve_encoder
from repre.training.monitoring.gradient_balance import gradient_balance
from repre.types import Batch
from repre.utils.safe_load import content_hash

GRADIENT_IMAGES = 64
IMAGE_LEVEL = ("knn", "linear", "objects")
"""Evaluations with image labels; they use images with one object."""


def measure(
    name: str, spec: str, preset: Preset, *, dense: Path, single: Path, seed: int, runtime: RuntimeOptions, out: Path,
    from_scratch: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures one evaluation of an encoder.

    Args:
        from_scratch: train the encoder with a linear head on masks.
        name: an evaluation of the plan.
        spec: the encoder, as `--encoder` accepts it.
        dense, single: folders of the images with masks and boxes, and of those with one object each.
        out: folder for repre's own result files.

    Returns:
        metrics and config; details only where an analysis reads them.
    """
    if name == "objects":
        return knn_by_object(spec, single, seed=seed, runtime=runtime)
    if name in ("gradients", "gradients-by-depth"):
        return gradient_ratios(Path(spec), images_spec(dense))
    if name == "ends-labels":
        return fair_ends(spec, dense, preset, seed=seed, runtime=runtime, out=out)
    evaluation, config = evaluation_configs(preset, dense=dense, single=single, from_scratch=from_scratch)[name]
    config = replace(config, seed=seed, runtime=runtime)
    result = evaluate(evaluation, resolve_encoder(spec), config, out=out, reuse=True)
    return {key: result[key] for key in ("metrics", "config")}


def evaluation_configs(
    preset: Preset, *, dense: Path, single: Path, from_scratch: bool = False
) -> dict[str, tuple[str, Any]]:
    """Returns, for every evaluation of the plan that repre has, repre's name for it and its config."""
    if preset.plan == "real":
        return _real_configs(preset, dense=dense, single=single, from_scratch=from_scratch)
    masks = masks_spec(dense)
    linear = SegmentConfig(data=masks, fit=preset.miou)
    foreground = replace(linear, data=masks_spec(dense / "foreground"))
    upernet = SegmentConfig(data=masks, head="upernet", width=preset.upernet_width, fit=preset.upernet)
    detect = DetectConfig(data=f"coco:{dense}", width=preset.detect_width, masks=True, fit=preset.detect)
    detect_foreground = replace(detect, data=f"coco:{dense / 'foreground'}")
    fractions = preset.label_fractions
    return {
        "knn": ("knn", KNNConfig(data=labels_spec(single), size=preset.size)),
        "linear": ("linear", LinearConfig(data=labels_spec(single), size=preset.size, steps=preset.linear_steps)),
        "miou": ("segment", linear),
        "foreground": ("segment", foreground),
        "upernet": ("segment", upernet),
        "foreground-upernet": ("segment", replace(upernet, data=foreground.data)),
        "detect": ("detect", detect),
        "foreground-detect": ("detect", detect_foreground),
        "foreground-labels": ("segment", replace(foreground, label_fraction=fractions)),
        "miou-labels": ("segment", replace(linear, label_fraction=fractions)),
        "detect-labels": ("detect", replace(detect, label_fraction=fractions)),
        "foreground-detect-labels": ("detect", replace(detect_foreground, label_fraction=fractions)),
    }


def _real_configs(preset: Preset, *, dense: Path, single: Path, from_scratch: bool) -> dict[str, tuple[str, Any]]:
    """The evaluations of the plan on real images."""
    masks, size = masks_spec(dense), preset.dense_size
    labeled = preset.counts("camvid").labeled
    fractions = (*(count / labeled for count in preset.mask_counts), 1.0)
    linear = SegmentConfig(data=masks, size=size, label_fraction=fractions, fit=preset.miou)
    if from_scratch:
        linear = replace(linear, frozen=False, fit=preset.scratch)
    foreground = SegmentConfig(data=masks_spec(dense / "foreground"), fit=preset.miou)
    return {
        "knn": ("knn", KNNConfig(data=labels_spec(single), size=preset.size)),
        "linear": ("linear", LinearConfig(data=labels_spec(single), size=preset.size, steps=preset.linear_steps)),
        "foreground": ("segment", foreground),
        "miou-labels": ("segment", linear),
        "patch-knn-labels": ("patch-knn", PatchKNNConfig(data=masks, size=size, label_fraction=fractions)),
    }


def knn_by_object(spec: str, single: Path, *, seed: int, runtime: RuntimeOptions) -> dict[str, Any]:
    """k-NN accuracy, with [correct answers, images] of every source object, for a bootstrap over objects."""
    resolved = resolve_encoder(spec)
    encoder = resolved.build(seed=seed).to(runtime.torch_device)
    transform = eval_transform(resolved, encoder)
    splits = open_labeled(labels_spec(single), channels=encoder.config.channels, canvas=transform.canvas)
    train, test = (cached_features(encoder, part, transform, runtime=runtime) for part in (splits.train, splits.test))
    labels, targets = (torch.from_numpy(part.targets) for part in (splits.train, splits.test))
    predictions = knn_votes(train, labels, test, k=(20,), classes=len(splits.classes))[20].argmax(1)
    is_correct = (predictions == targets).tolist()
    objects: dict[str, list[int]] = {}
    for name, correct in zip(main_objects(single), is_correct, strict=True):
        counts = objects.setdefault(name, [0, 0])
        counts[0] += int(correct)
        counts[1] += 1
    return {
        "metrics": {"knn20": sum(is_correct) / len(is_correct)},
        "config": {"seed": seed},
        "details": {"objects": dict(sorted(objects.items()))},
    }


def gradient_ratios(run: Path, images: str) -> dict[str, Any]:
    """Norm of the branch's gradient over that of the contrastive loss, for a run's initial and final model.

    `gradient_ratio` is the largest ratio at three depths of the encoder (docs/monitors.md), in evaluation mode; of the final
    model there are also those of the first and the last block, and the lowest cosine between the two gradients. Both ratios
    are 0 without the branch, and the final one where the branch ends before the run; the others are then missing.
    """
    final, config = load_model(run)
    source = open_source(images, channels=config.encoder.channels, canvas=config.decode_size, labels=False)
    indices = torch.arange(min(GRADIENT_IMAGES, len(source)))
    pixels, sizes = stack([source.load(index) for index in indices.tolist()])
    batch = Batch(pixels, sizes, indices, indices, epoch=0)
    views = make_views(batch, config.views, seed=config.seed, device=torch.device("cpu"))
    initial = build_model(
        encoder=config.encoder_at_size, framework=config.framework, decoder=config.decoder,
        reconstruction=config.reconstruction, seed=config.seed, mask_token=config.mask_token,
    ).eval()  # fmt: skip
    with torch.no_grad():
        start, end = (
            gradient_balance(model, views, progress=progress) for model, progress in ((initial, 0.0), (final, 1.0))
        )
    metrics = {
        f"gradient_ratio_{name}": found.get("gradient_ratio", 0.0) for name, found in (("start", start), ("end", end))
    }
    for depth in ("first", "last"):
        if f"gradient_contrastive_{depth}" in end:
            ratio = end[f"gradient_pixel_{depth}"] / end[f"gradient_contrastive_{depth}"]
            metrics[f"gradient_ratio_{depth}_block"] = ratio
    if cosines := [value for name, value in end.items() if name.startswith("gradient_cosine_")]:
        metrics["gradient_cosine"] = min(cosines)
    return {"metrics": metrics, "config": {"images": len(indices)}}


def supervised_config(preset: Preset, data: str) -> FinetuneConfig:
    """Returns the training of the supervised baseline, from random init."""
    return FinetuneConfig(data=data, size=preset.size, fit=preset.supervised, save_encoder=True)


def train_supervised(
    encoder: EncoderConfig, config: FinetuneConfig, *, seed: int, runtime: RuntimeOptions, out: Path
) -> dict[str, Any]:
    """Trains an encoder on labels, or returns the stored result; the encoder lies in a folder beside its `path`."""
    config = replace(config, seed=seed, runtime=runtime)
    return evaluate("finetune", resolve_encoder(random_init_spec(encoder)), config, out=out / "supervised", reuse=True)


def weights_hash(spec: str) -> str:
    """Returns a short hash of an encoder's weights."""
    return content_hash(resolve_encoder(spec).build(seed=0).state_dict())[:12]


def random_init_spec(encoder: EncoderConfig) -> str:
    """Returns the encoder at random init, as `--encoder` accepts it."""
    plain = to_dict(encoder)
    settings = {"image_size": plain["image_size"], "patch_size": plain["patch_size"], **plain["model_args"]}
    arguments = ",".join(f"{key}={value!r}" for key, value in settings.items() if value is not None)
    return f"random:{encoder.name}[{arguments}]"
