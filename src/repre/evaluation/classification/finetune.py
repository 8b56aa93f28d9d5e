"""An encoder and a linear classifier on its pooled embedding, trained end to end (as MAE and BEiT, arXiv 2111.06377, A.2).

AdamW with smaller learning rates for lower layers, random crops and flips, and, if wanted, color jitter, mixup, CutMix
and label smoothing. How it is trained, and how it goes on after a stop, is told in `repre.evaluation.fit`.

    N  images    B  images in a batch    C  classes    S  side of a view    D  width of the embedding
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.config import to_dict
from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.splits import LabeledImages, draw_share
from repre.data.loading.loader import Loader
from repre.data.views.params import ViewConfig
from repre.data.views.render import random_view
from repre.errors import UserError
from repre.evaluation.features import Transform, eval_transform, extract_all
from repre.evaluation.fit import FitConfig, fit
from repre.evaluation.metrics import check_fractions, classification, per_class, with_share
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.types import Batch
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields

HEAD_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A classifier trained end to end."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None takes the test images of `data`, or holds a fifth of it out."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Shares of the training images, of every class alike; one training and one figure for each."""
    size: int | None = None
    """Side of the images in pixels; None takes the encoder's own. Fashion-MNIST's are 28."""
    crop_pct: float | None = None
    """Share of the test image\'s short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the files' type."""
    view: ViewConfig = field(default_factory=lambda: ViewConfig(scale=(0.5, 1.0), filter="bicubic"))
    """How training images are cropped, flipped and recolored; no flip where left and right mean something."""
    mixup: float = 0.0
    """Alpha of mixup (arXiv 1710.09412); 0 is none, 0.8 usual for long trainings."""
    cutmix: float = 0.0
    """Alpha of CutMix (arXiv 1905.04899); 0 is none, 1 usual. With both, each is taken in half of the steps."""
    smoothing: float = 0.0
    """Share of the target that is spread over all classes; 0.1 usual with mixup."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(batch_size=128))
    """How it is trained. From random weights, higher `layer_decay` (to 1) lets the lower layers learn."""
    save_encoder: bool = False
    """Keep the trained encoder (of the largest label fraction) in ``encoder/`` beside the result: a supervised start for
    other evaluations and for `compare --supervised`."""
    seed: int = 0
    """Draws random weights, the order of the images, their views, label fractions."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "finetune")
        check_fractions(self.label_fraction)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing must lie in [0, 1), not {self.smoothing}")


class Classifier(nn.Module):
    """A linear layer on the pooled embedding: images [B, C, S, S] -> scores [B, classes]."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images, maps=False).embedding)


def run(start: ResolvedEncoder, config: FinetuneConfig, *, work: Path | None = None) -> Result:
    """``accuracy`` (and ``top5``) or ``map`` on the test images, with suffixes for label fractions; see `FinetuneConfig`.

    Args:
        work: folder for checkpoints, with which an interrupted training goes on, and for the encoder if it is kept.
    """
    if config.save_encoder and work is None:
        raise UserError("save_encoder needs a folder to work in")
    outline = start.build(image_size=config.size, drop_path=config.fit.drop_path, seed=config.seed)
    transform = eval_transform(start, outline, crop_pct=config.crop_pct, value_range=config.value_range)
    splits = open_labeled(config.data, test=config.test, channels=outline.config.channels, canvas=transform.canvas)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size}
    for share in config.label_fraction:
        train = splits.train.take(draw_share(splits.train.targets, share, seed=config.seed))
        encoder = start.build(image_size=config.size, drop_path=config.fit.drop_path, seed=config.seed)
        model, trained = _train(
            encoder, train, transform, config, work=work, identity=_identity(start, config, transform, train)
        )
        scores, truth = _test(model, splits, transform, config)
        for name, value in classification(scores, truth).items():
            metrics[with_share(name, share, config.label_fraction)] = value
        details[with_share("fit", share, config.label_fraction)] = {**trained, "images": len(train)}
        if share == max(config.label_fraction):
            details["per_class"] = per_class(scores, truth, splits.classes)
            if config.save_encoder and work is not None:
                mean, std = (s.flatten().tolist() for s in transform.views.statistics(outline.config.channels))
                model.encoder.save(work / "encoder", mean=mean, std=std, value_range=transform.views.value_range)
    return Result(metrics, main="map" if splits.multilabel else "accuracy", details=details)


def _identity(
    start: ResolvedEncoder, config: FinetuneConfig, transform: Transform, train: LabeledImages
) -> dict[str, Any]:
    """Everything that defines a training: a checkpoint of another one is not continued."""
    own = ("view", "mixup", "cutmix", "smoothing", "fit", "seed")
    return {
        "evaluation": "finetune",
        "encoder": to_dict(start.config) | {"weights": start.fingerprint},
        "views": to_dict(transform.views),
        "config": {name: value for name, value in to_dict(config).items() if name in own},
        "images": train.identity(),
        "targets": hashlib.sha256(train.targets.tobytes()).hexdigest(),
    }


def _train(
    encoder: Encoder,
    train: LabeledImages,
    transform: Transform,
    config: FinetuneConfig,
    *,
    work: Path | None,
    identity: dict[str, Any],
) -> tuple[Classifier, dict[str, float]]:
    """The trained classifier in evaluation mode, and what `fit` says of it."""
    device = config.runtime.torch_device
    torch.manual_seed(config.seed)  # the same head for every start
    model = Classifier(encoder, len(train.classes)).to(device)
    settings = replace(config.fit, batch_size=min(config.fit.batch_size, len(train)))
    canvas = train.canvas(transform.canvas)

    def loader(first: int) -> Loader:
        return Loader(
            train,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=config.seed,
            canvas=canvas,
            workers=config.runtime.processes,
            start=first,
            keep_values=transform.views.value_range is not None,
            pin=device.type == "cuda",
        )

    targets = torch.from_numpy(train.targets)
    planned = loader(0)
    trained = fit(
        model,
        batches=lambda first: _readable(loader(first)),
        loss=_loss(model, targets, transform, config, device),
        steps=planned.total_steps,
        steps_per_epoch=planned.steps_per_epoch,
        config=settings,
        device=device,
        precision=config.runtime.dtype,
        seed=config.seed,
        encoder=encoder,
        work=work,
        identity=identity,
    )
    return model, trained


def _readable(loader: Loader) -> Iterator[Batch]:
    """The batches; an evaluation does not go on without some of its images."""
    for batch in loader:
        if batch.failures:
            index, reason = batch.failures[0]
            raise UserError(f"{loader.source.describe(index)} cannot be read: {reason}; mend it or remove it")
        yield batch


def _loss(
    model: Classifier, targets: Tensor, transform: Transform, config: FinetuneConfig, device: torch.device
) -> Callable[[Batch], Tensor]:
    """Cross-entropy with soft targets, or binary cross-entropy where an image may have several labels."""

    def loss(batch: Batch) -> Tensor:
        images = random_view(batch, config.view, transform.views, seed=config.seed, device=device)
        wanted = targets[batch.indices].to(device, non_blocking=True)
        if targets.ndim == 1:
            wanted = F.one_hot(wanted, model.head.out_features).float()
            wanted = wanted * (1 - config.smoothing) + config.smoothing / model.head.out_features
        if config.mixup > 0 or config.cutmix > 0:
            images, wanted = mix(images, wanted, mixup=config.mixup, cutmix=config.cutmix)
        scores = model(images).float()
        if targets.ndim == 1:
            return F.cross_entropy(scores, wanted)
        return F.binary_cross_entropy_with_logits(scores, wanted)

    return loss


def mix(images: Tensor, wanted: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixes every image and its target with the one before it, with one share drawn for the whole batch.

    Mixup blends the pixels; CutMix pastes a box of the other image, and counts its true area. Numbers are drawn from
    torch's generator on the CPU, which `fit` seeds in every step.

    Args:
        images: [B, C, S, S]; wanted: [B, classes].
        mixup, cutmix: alphas of Beta(alpha, alpha); 0 leaves one of them out.
    """
    paste = cutmix > 0 and (mixup == 0 or bool(torch.rand(()) < 0.5))
    alpha = cutmix if paste else mixup
    kept = float(torch.distributions.Beta(alpha, alpha).sample())
    other = images.roll(1, 0)
    if paste:
        height, width = images.shape[-2:]
        share = (1 - kept) ** 0.5
        center_y, center_x = (float(torch.rand(())) * side for side in (height, width))
        top, bottom = (round(min(max(center_y + sign * share * height / 2, 0), height)) for sign in (-1, 1))
        left, right = (round(min(max(center_x + sign * share * width / 2, 0), width)) for sign in (-1, 1))
        images = images.clone()
        images[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        images = kept * images + (1 - kept) * other
    return images, kept * wanted + (1 - kept) * wanted.roll(1, 0)


def _test(
    model: Classifier, splits: LabeledSplits, transform: Transform, config: FinetuneConfig
) -> tuple[Tensor, Tensor]:
    """Scores of the test images [N, C], and their targets."""
    device, precision = config.runtime.torch_device, config.runtime.dtype

    def classify(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return model(images)

    scores = extract_all(splits.test, transform, [classify], runtime=config.runtime)[0]
    return scores, torch.from_numpy(splits.test.targets)
