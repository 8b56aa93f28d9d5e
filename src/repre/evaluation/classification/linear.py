"""A linear classifier on frozen features: every learning rate trained at once, one chosen by validation images.

As DINOv2's linear probe (arXiv 2304.07193, appendix B.3), but on features that are extracted once from plain views and
standardized. The choice looks at a tenth of the training images (or at validation images that the data brings along);
the chosen setting is then trained on all training images. The test images give one figure, that of the chosen setting.

    N  images    D  width of the features    C  classes    L  settings of the sweep    B  images in a batch
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.splits import draw_share, draw_shots, hold_out
from repre.data.loading.loader import epoch_order
from repre.errors import UserError
from repre.evaluation.features import cached_features, eval_transform
from repre.evaluation.metrics import check_fractions, classification, per_class, with_share
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields
from repre.utils.schedule import cosine

HELD_OUT = 0.1
"""Share of the training images that the choice of the learning rate looks at."""
MOMENTUM = 0.9
STEPS, PASSES = 5000, 10
"""Steps, and passes over the images, at the least."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A linear classifier on frozen embeddings."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None takes the test images of `data`, or holds a fifth of it out."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Shares of the training images that have labels, of every class alike; one figure for each."""
    shots: tuple[int, ...] = ()
    """Few-shot figures: how many training images of every class have labels."""
    draws: int = 5
    """Few-shot figures are the mean over this many draws of the shots."""
    lrs: tuple[float, ...] = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)
    """Learning rates for a batch of 256 images, scaled in proportion to the batch."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays; each is tried with every learning rate."""
    steps: int | None = None
    """Steps of SGD with momentum under a cosine; None: 5000, or ten passes over the images where that is more."""
    batch_size: int = 256
    """Images per step; all of them where there are fewer."""
    tokens: bool = False
    """Append the mean of the last map's cells to the pooled embedding."""
    size: int | None = None
    """Side of the images in pixels; None takes the encoder's own."""
    crop_pct: float | None = None
    """Share of the image\'s short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the files' type."""
    seed: int = 0
    """Draws label fractions, shots, validation images, the order of the images and random weights."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "linear")
        check_fractions(self.label_fraction)
        for name in ("draws", "steps", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lrs or min(self.lrs) <= 0:
            raise UserError(f"lrs must name learning rates above 0, not {self.lrs}")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise UserError(f"weight_decays must name weight decays of 0 or more, not {self.weight_decays}")
        if any(shots < 1 for shots in self.shots) or len(set(self.shots)) < len(self.shots):
            raise UserError(f"shots must name numbers of images from 1 on, each once, not {self.shots}")


def run(start: ResolvedEncoder, config: LinearConfig, *, work: Path | None = None) -> Result:
    """``accuracy`` (and ``top5``) or ``map`` on the test images; with suffixes for fractions, ``shots5`` for shots."""
    device = config.runtime.torch_device
    encoder = start.build(image_size=config.size, seed=config.seed).to(device)
    transform = eval_transform(start, encoder, crop_pct=config.crop_pct, value_range=config.value_range)
    splits = open_labeled(config.data, test=config.test, channels=encoder.config.channels, canvas=transform.canvas)
    if config.shots and splits.multilabel:
        raise UserError("shots count images of every class, and these images have several labels; use label_fraction")
    probe = _Probe(
        config,
        splits,
        *(
            cached_features(encoder, images, transform, tokens=config.tokens, runtime=config.runtime).to(device)
            for images in (splits.train, splits.test, *([splits.val] if splits.val is not None else []))
        ),
    )
    main = "map" if splits.multilabel else "accuracy"
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size, "width": probe.train.shape[1]}
    for share in config.label_fraction:
        scores, chosen = probe(draw_share(splits.train.targets, share, seed=config.seed), seed=config.seed)
        figures = classification(scores, probe.truth)
        metrics |= {with_share(name, share, config.label_fraction): value for name, value in figures.items()}
        details[with_share("chosen", share, config.label_fraction)] = chosen
        if share == max(config.label_fraction):
            details["per_class"] = per_class(scores, probe.truth, splits.classes)
    for shots in config.shots:
        found = []
        for draw in range(config.draws):
            seed = config.seed * config.draws + draw
            images = draw_shots(splits.train.targets, shots, seed=seed, classes=splits.classes)
            scores, _ = probe(images, seed=seed)
            found.append(classification(scores, probe.truth)["accuracy"])
        metrics[f"shots{shots}"] = float(np.mean(found))
        details[f"shots{shots}"] = {"draws": found, "sd": float(np.std(found, ddof=1)) if len(found) > 1 else None}
    return Result(metrics, main=main, details=details)


class _Probe:
    """Chooses, trains and tests a linear classifier on some of the training images."""

    def __init__(
        self, config: LinearConfig, splits: LabeledSplits, train: Tensor, test: Tensor, val: Tensor | None = None
    ) -> None:
        self.config, self.splits = config, splits
        self.train, self.test, self.val = train, test, val
        self.targets, self.truth = (
            torch.from_numpy(images.targets).to(train.device) for images in (splits.train, splits.test)
        )
        self.settings = [(lr, decay) for lr in config.lrs for decay in config.weight_decays]

    def __call__(self, images: np.ndarray, *, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """Scores of the test images [N, C] after training on `images`, and what was chosen how."""
        chosen, details = self._choose(images, seed=seed)
        classify = self._fit(images, [self.settings[chosen]], seed=seed)
        return classify(self.test)[:, 0], {**details, "images": len(images)}

    def _choose(self, images: np.ndarray, *, seed: int) -> tuple[int, dict[str, Any]]:
        """The setting of the sweep with the best validation figure, of equal ones that with the smallest loss."""
        if self.splits.val is not None and self.val is not None:
            kept, features = images, self.val
            truth = torch.from_numpy(self.splits.val.targets).to(features.device)
        else:
            inside, outside = hold_out(self.splits.train.targets[images], HELD_OUT, seed=seed)
            held = torch.from_numpy(images[outside]).to(self.train.device)
            kept, features, truth = images[inside], self.train[held], self.targets[held]
        if len(self.settings) == 1 or not len(features):
            chosen = len(self.settings) // 2
            lr, decay = self.settings[chosen]
            why = "the only setting" if len(self.settings) == 1 else "the middle of the sweep: no image to choose by"
            return chosen, {"lr": lr, "weight_decay": decay, "by": why}
        sweep = self._fit(kept, self.settings, seed=seed)
        ranks = [_rank(sweep.only(place)(features)[:, 0], truth) for place in range(len(self.settings))]
        chosen = max(range(len(ranks)), key=lambda place: ranks[place])
        lr, decay = self.settings[chosen]
        tried = [
            {"lr": one, "weight_decay": other, "val": figure} for (one, other), (figure, _) in zip(self.settings, ranks)
        ]
        return chosen, {"lr": lr, "weight_decay": decay, "by": f"{len(features)} validation images", "sweep": tried}

    def _fit(self, images: np.ndarray, settings: Sequence[tuple[float, float]], *, seed: int) -> "Classifiers":
        places = torch.from_numpy(images).to(self.train.device)
        return fit_linear(
            self.train[places],
            self.targets[places],
            classes=len(self.splits.classes),
            settings=settings,
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            seed=seed,
        )


def _rank(scores: Tensor, truth: Tensor) -> tuple[float, float]:
    """Validation figure and negative loss; a setting that diverged comes last."""
    if not scores.isfinite().all():
        return -1.0, -float("inf")
    figures = classification(scores, truth)
    several = truth.ndim == 2
    loss = F.binary_cross_entropy_with_logits(scores, truth) if several else F.cross_entropy(scores, truth)
    return figures["map" if several else "accuracy"], -float(loss)


# ---------------------------------------------------------------------------------------------------- the linear layers


@dataclass(frozen=True)
class Classifiers:
    """L linear classifiers on standardized features.

    Attributes:
        mean, scale: of the training features, [D].
        weight: [D, L, C].
        bias: [L, C].
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores of features [N, D]: [N, L, C]."""
        inputs = (features - self.mean) * self.scale
        return (inputs @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias

    def only(self, place: int) -> "Classifiers":
        """One of them; the scores of a whole sweep may not fit into memory."""
        rows = slice(place, place + 1)
        return Classifiers(self.mean, self.scale, self.weight[:, rows], self.bias[rows])


@torch.no_grad()
def fit_linear(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int,
    settings: Sequence[tuple[float, float]],
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Classifiers:
    """Trains one linear classifier per setting, all at once: one matrix product serves the whole sweep.

    Softmax cross-entropy, or binary cross-entropy summed over the classes; for both the gradient by the scores is the
    predicted probability less the target, divided by B. Classifiers do not see one another: one that diverges leaves
    the others as they are.

    Args:
        features: float32 [N, D]; targets: int64 [N], or 0/1 float32 [N, C].
        settings: learning rate (for 256 images per step) and weight decay of every classifier.
        steps: None takes 5000, or ten passes over the images where that is more.
        batch_size: images per step; all of them where there are fewer.
        seed: of the order of the images. All weights start at 0.
    """
    count, width = features.shape
    device, size = features.device, min(batch_size, count)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    varies = deviation > 1e-6 * features.abs().amax(0)  # others are rounding noise, not to be blown up
    scale = torch.where(varies, 1 / deviation.where(varies, 1), 0)
    inputs = (features - mean) * scale
    lrs, decays = torch.tensor(settings, device=device).T  # [L] each
    lrs = lrs * (size / 256)
    weight = torch.zeros(width, len(settings), classes, device=device)
    bias = torch.zeros(len(settings), classes, device=device)
    momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    probability = torch.softmax if targets.ndim == 1 else _sigmoid
    per_epoch = count // size
    steps = max(STEPS, PASSES * per_epoch) if steps is None else steps
    order = torch.empty(0)
    for step in tqdm(range(steps), desc="linear", unit="step", disable=None, leave=False):
        epoch, place = divmod(step, per_epoch)
        batch, wanted = inputs, targets
        if size < count:
            if place == 0:
                order = torch.from_numpy(epoch_order(count, seed=seed, epoch=epoch)).to(device)
            rows = order[place * size : (place + 1) * size]
            batch, wanted = inputs[rows], targets[rows]
        if targets.ndim == 1:
            wanted = F.one_hot(wanted, classes).float()
        scores = (batch @ weight.flatten(1)).unflatten(1, bias.shape) + bias  # [B, L, C]
        gradient = (probability(scores, 2) - wanted[:, None]) / size
        momentum.mul_(MOMENTUM).add_((batch.T @ gradient.flatten(1)).view_as(weight))
        momentum.add_(weight * decays[None, :, None])
        bias_momentum.mul_(MOMENTUM).add_(gradient.sum(0))
        rate = lrs * cosine(step / steps, 1.0, 0.0)
        weight.sub_(rate[None, :, None] * momentum)
        bias.sub_(rate[:, None] * bias_momentum)
    return Classifiers(mean, scale, weight, bias)


def _sigmoid(scores: Tensor, dim: int) -> Tensor:
    return scores.sigmoid()
