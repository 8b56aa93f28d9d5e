"""An encoder and a linear classifier on its pooled embedding, trained end to end (MAE, arXiv 2111.06377, A.2, and BEiT).

AdamW with lower learning rates for lower layers, random crops and flips, and optionally color jitter, mixup, CutMix and
label smoothing. `repre.evaluation.fit` has the training loop.

    N  images    B  images in a batch    C  classes    H, W  height and width of a view    D  dimensions of the embedding
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.splits import LabeledImages, draw_share
from repre.data.loading.loader import Loader
from repre.data.views.augmentations import ViewConfig
from repre.data.views.render import random_view
from repre.errors import BadImage, UserError
from repre.evaluation.bad_images import naming_bad_images, unreadable
from repre.evaluation.classification.class_details import class_details
from repre.evaluation.classification.classifier import Classifier
from repre.evaluation.classification.opening import open_for
from repre.evaluation.features import extract_features, stream_views
from repre.evaluation.fit import FitConfig, fit, why_alone
from repre.evaluation.fitted.fitted_classifier import FittedClassifier
from repre.evaluation.metrics import check_fractions, classification, with_fraction
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result, definition
from repre.models.resolve import ResolvedEncoder
from repre.models.timm_folder import save_encoder
from repre.models.transform import Transform
from repre.types import Batch
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size
from repre.utils.printable_text import say
from repre.utils.together import my_share, together


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A classifier trained end to end."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None uses the test images of `data`, or holds out a fifth."""
    accept_labels: bool = False
    """Accept the labels as read, even if they look wrong, such as a class with one image."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images of every class that have labels; one training and one metric for each."""
    size: Size | None = None
    """Side of the images in pixels, or their height and width; None uses the encoder's own. Fashion-MNIST's are 28."""
    crop_pct: float | None = None
    """Share of a test image's short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    view: ViewConfig = field(default_factory=lambda: ViewConfig(scale=(0.5, 1.0), filter="bicubic"))
    """Crop, flip and colors of training images. Set its flip to 0 if left and right differ in meaning."""
    mixup: float = 0.0
    """Alpha of mixup (arXiv 1710.09412); 0 is none, 0.8 is usual for long trainings."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv 1905.04899); 0 is none, 1 is usual. With both, each is applied in half of the steps."""
    smoothing: float = 0.0
    """Label smoothing: share of the target that is spread over all classes; 0.1 is usual with mixup."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(batch_size=128))
    """Training. From random weights, use a higher `layer_decay` (up to 1), so that the lower layers learn."""
    save_encoder: bool = False
    """Save the trained encoder (of the largest label fraction) to ``encoder/`` next to the result, as a supervised
    encoder for other evaluations and for `compare --supervised`."""
    seed: int = 0
    """Random seed for random weights, the order of the images, their views and label fractions."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "finetune")
        check_fractions(self.label_fraction)
        if not 0 <= self.smoothing < 1:
            raise UserError(f"finetune.smoothing must lie in [0, 1), not {self.smoothing}")


def check(resolved: ResolvedEncoder, config: FinetuneConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    return open_for(resolved, config)[2].identity()


def run(resolved: ResolvedEncoder, config: FinetuneConfig, *, work_dir: Path | None = None) -> Result:
    """Returns ``accuracy`` and ``top5``, or ``map``, on the test images; ``accuracy@0.1`` and so on for label fractions.

    Args:
        work_dir: folder for checkpoints, from which an interrupted training resumes, and for the saved encoder.

    Raises:
        UserError: a mistake in the data or the config, or an image cannot be read.
        Interrupted: a signal asked to stop.
    """
    if config.save_encoder and work_dir is None:
        raise UserError("save_encoder needs work_dir, the folder to save to")
    runtime, identity = config.runtime, definition("finetune", resolved, config)
    device = runtime.torch_device
    encoder, transform, splits = open_for(resolved, config)
    for note in splits.notes:
        say(note)
    channels = encoder.config.channels
    test_targets = torch.from_numpy(splits.test.targets)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size}
    fitted: FittedClassifier | None = None
    for fraction in config.label_fraction:
        train = splits.train.take(draw_share(splits.train.targets, fraction, seed=config.seed))
        encoder = resolved.build(image_size=config.size, drop_path=config.fit.drop_path, seed=config.seed)
        torch.manual_seed(config.seed)  # the same head for every encoder of this width
        model = Classifier(encoder, len(splits.classes)).to(device)
        batch_size = min(config.fit.batch_size, len(train))
        with naming_bad_images(splits.train, splits.test, workers=runtime.processes):
            if why_alone(model, batch_size):
                summary = _train(model, train, transform, config, batch_size, work_dir=work_dir, identity=identity)
            else:
                summary = together(
                    device, _train, model, train, transform, config, batch_size, work_dir=work_dir, identity=identity
                )
            (scores,) = together(device, _scores, model, splits.test, transform, runtime)
        for name, value in classification(scores, test_targets).items():
            metrics[with_fraction(name, fraction, config.label_fraction)] = value
        details[with_fraction("fit", fraction, config.label_fraction)] = {**summary, "images": len(train)}
        if fraction == max(config.label_fraction):
            details |= class_details(scores, test_targets, splits)
            fitted = FittedClassifier.of(model, splits.classes, splits.multilabel, transform, batch=runtime.batch)
            if config.save_encoder and work_dir is not None:
                mean, std = (values.flatten().tolist() for values in transform.views.statistics(channels))
                save_encoder(encoder, work_dir / "encoder", mean=mean, std=std, value_range=transform.views.value_range)
    return Result(metrics, main="map" if splits.multilabel else "accuracy", details=details, fitted=fitted)


def _train(
    model: Classifier,
    train: LabeledImages,
    transform: Transform,
    config: FinetuneConfig,
    batch_size: int,
    *,
    work_dir: Path | None,
    identity: dict[str, Any],
) -> dict[str, float]:
    """Trains the classifier, sets evaluation mode, and returns the summary of `fit`.

    Of several ranks, each decodes and encodes its share of a batch; where images of a batch are mixed, it decodes all of it.
    """
    device, share = config.runtime.torch_device, my_share()
    rank, ranks = (0, 1) if config.mixup > 0 or config.cutmix > 0 else share
    fit_config = replace(config.fit, batch_size=batch_size)
    canvas = train.canvas(transform.canvas)
    targets, targets_hash = torch.from_numpy(train.targets), hashlib.sha256(train.targets.tobytes()).hexdigest()

    def loader(start: int) -> Loader:
        return Loader(
            train,
            batch_size=fit_config.batch_size,
            epochs=fit_config.passes,
            seed=config.seed,
            canvas=canvas,
            workers=config.runtime.processes,
            start=start,
            rank=rank,
            world_size=ranks,
            pin=device.type == "cuda",
            log=_silent if share[0] else print,
        )

    def batches(start: int) -> Iterator[Batch]:
        for batch in loader(start):
            if batch.failures:  # the loader shows other images instead, which would change the result
                index, reason = batch.failures[0]
                raise BadImage(unreadable(train.describe(index), reason))
            yield batch

    def piece_losses(batch: Batch, size: int) -> Iterator[Tensor]:
        images = random_view(batch, config.view, transform.views, seed=config.seed, device=device)
        labels = targets[batch.indices].to(device, non_blocking=True)
        return classification_losses(
            model,
            images,
            labels,
            size=size,
            smoothing=config.smoothing,
            mixup=config.mixup,
            cutmix=config.cutmix,
            share=share,
        )

    def loss(batch: Batch) -> Tensor:
        (whole,) = piece_losses(batch, batch_size)
        return whole

    schedule = loader(0)
    return fit(
        model,
        batches=batches,
        loss=loss,
        piece_losses=piece_losses,
        steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        config=fit_config,
        device=device,
        precision=config.runtime.dtype,
        seed=config.seed,
        encoder=model.encoder,
        work_dir=work_dir,
        identity=identity | {"images": train.identity(), "targets": targets_hash, "views": str(transform.views)},
    )


def classification_losses(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    size: int,
    smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Tensor]:
    """Yields the losses of pieces of a batch, whose sum is its mean cross-entropy with soft targets, or its mean binary
    cross-entropy for several labels per image. Drop path draws for every piece what it draws for the whole batch.

    Args:
        images: [B, C, H, W]; of several ranks, the share of this one, or the whole batch where images are mixed.
        labels: int64 [B], which `smoothing` applies to; or 0/1 [B, classes].
        size: images of a piece; B gives the loss of the batch.
        mixup, cutmix: see `mix`.
        share: number of this rank, and of the ranks whose losses sum up to that of the batch.
    """
    multilabel, (rank, ranks) = labels.ndim == 2, share
    targets = labels
    if not multilabel:
        classes = model.head.out_features
        targets = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
    if mixup > 0 or cutmix > 0:
        images, targets = mix(images, targets, mixup=mixup, cutmix=cutmix)
        images, targets = images.chunk(ranks)[rank], targets.chunk(ranks)[rank]
    local = len(images)
    first, count = rank * local, ranks * local
    loss = F.binary_cross_entropy_with_logits if multilabel else F.cross_entropy
    batch_slice, devices = model.encoder.batch_slice, [images.device] if images.device.type == "cuda" else []
    try:
        for start in range(0, local, size):
            stop = min(start + size, local)
            batch_slice.select(first + start, first + stop, total=count, device=images.device)
            with torch.random.fork_rng(devices=devices):
                value = loss(model(images[start:stop]).float(), targets[start:stop])
            yield value * ((stop - start) / count)
    finally:
        batch_slice.select(0, count, total=count, device=images.device)


def mix(images: Tensor, targets: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixes every image and its target with the one before it in the batch, with one ratio for the whole batch.

    Mixup blends the pixels. CutMix pastes a box of the other image and mixes the targets by its actual area. The random
    numbers come from torch's generator on the CPU, which `fit` seeds in every step.

    Args:
        images: [B, C, H, W].
        targets: [B, classes].
        mixup, cutmix: alphas of Beta(alpha, alpha), at least one above 0; 0 leaves one out.

    Returns:
        Images and targets of the same shapes.
    """
    paste = cutmix > 0 and (mixup == 0 or bool(torch.rand(()) < 0.5))
    alpha = cutmix if paste else mixup
    ratio = float(torch.distributions.Beta(alpha, alpha).sample())  # of the image itself
    others = images.roll(1, 0)
    if paste:
        height, width = images.shape[-2:]
        side = (1 - ratio) ** 0.5  # of the box, relative to the image
        center_y, center_x = (float(torch.rand(())) * length for length in (height, width))
        top, bottom = (round(min(max(center_y + sign * side * height / 2, 0), height)) for sign in (-1, 1))
        left, right = (round(min(max(center_x + sign * side * width / 2, 0), width)) for sign in (-1, 1))
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        ratio = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        images = ratio * images + (1 - ratio) * others
    return images, ratio * targets + (1 - ratio) * targets.roll(1, 0)


def _scores(model: Classifier, images: LabeledImages, transform: Transform, runtime: RuntimeOptions) -> list[Tensor]:
    """Scores of all images, float32 on the CPU [N, C], as `extract_features` returns them."""
    scores = partial(model.scores, precision=runtime.dtype)
    return extract_features(stream_views(images, transform, runtime=runtime), [scores])


def _silent(_: str) -> None:
    """Other ranks than rank 0 print nothing."""
