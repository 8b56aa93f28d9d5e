"""A linear classifier on frozen features: all learning rates are trained at once, and validation images choose one.

As DINOv2's linear probe (arXiv 2304.07193, appendix B.3), but on features that are extracted once from test views and
standardized. A tenth of the training images (or the validation images of the data) choose the setting, which is then
trained on all training images. The test images score the chosen setting only.

    N  images    D  dimensions of the features    C  classes
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.classes import LabeledSplits
from repre.data.labels.splits import LabeledImages, draw_share, draw_shots, hold_out
from repre.errors import UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.classification.class_details import class_details
from repre.evaluation.classification.classifier import StandardizedClassifier
from repre.evaluation.classification.linear_fit import Classifiers, fit_linear
from repre.evaluation.classification.opening import open_for
from repre.evaluation.features import cached_features
from repre.evaluation.fitted.fitted_classifier import FittedClassifier
from repre.evaluation.metrics import check_fractions, classification, with_fraction
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result, definition
from repre.models.resolve import ResolvedEncoder
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size
from repre.utils.io import json_hash
from repre.utils.printable_text import say

VALIDATION_FRACTION = 0.1
"""Fraction of the training images that choose the setting."""
CLASSIFIER = ("mean", "scale", "weight", "bias")
"""Tensors of a classifier, in the order of the fields of `Classifiers`."""


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """A linear classifier on frozen embeddings."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None uses the test images of `data`, or holds out a fifth."""
    accept_labels: bool = False
    """Accept the labels as read, even if they look wrong, such as a class with one image."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images of every class that have labels, one metric for each."""
    shots: tuple[int, ...] = ()
    """Few-shot metrics: numbers of training images per class that have labels."""
    draws: int = 5
    """A few-shot metric is the mean over this many draws of the images."""
    lrs: tuple[float, ...] = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)
    """Learning rates for a batch of 256 images, scaled in proportion to the batch."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays; each is tried with every learning rate."""
    steps: int | None = None
    """Steps of SGD with momentum and a cosine schedule; None: 5000, or ten epochs if that is more."""
    batch_size: int = 256
    """Images per step; all of them if there are fewer."""
    tokens: bool = False
    """Append the mean of the patch tokens, after the final norm, to the pooled embedding."""
    size: Size | None = None
    """Side of the images in pixels, or their height and width; None uses the encoder's own."""
    crop_pct: float | None = None
    """Share of the image's short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    seed: int = 0
    """Random seed for label fractions, shots, validation images, the order of the images and random weights."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "linear")
        check_fractions(self.label_fraction)
        for name in ("draws", "steps", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"linear.{name} must be at least 1, not {getattr(self, name)}")
        if not self.lrs or min(self.lrs) <= 0:
            raise UserError(f"linear.lrs must be learning rates above 0, not {self.lrs}")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise UserError(f"linear.weight_decays must be weight decays of at least 0, not {self.weight_decays}")
        if any(shots < 1 for shots in self.shots) or len(set(self.shots)) < len(self.shots):
            raise UserError(f"linear.shots must be different numbers of images of at least 1, not {self.shots}")


def check(resolved: ResolvedEncoder, config: LinearConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    return open_for(resolved, config)[2].identity()


def run(resolved: ResolvedEncoder, config: LinearConfig, *, work_dir: Path | None = None) -> Result:
    """Returns ``accuracy`` and ``top5``, or ``map``; ``accuracy@0.1`` for label fractions, ``shots5`` for shots.

    Args:
        work_dir: folder for checkpoints, from which an interrupted training resumes; finished fractions and draws are not
            repeated. None keeps nothing.

    Raises:
        UserError: a mistake in the data or the config, or a class has fewer images than shots.
        Interrupted: a signal asked to stop.
    """
    device = config.runtime.torch_device
    encoder, transform, splits = open_for(resolved, config)
    for note in splits.notes:
        say(note)
    encoder = encoder.to(device)
    if config.shots and splits.multilabel:
        raise UserError("linear.shots needs images with one label each, but these have several; use label_fraction")

    def features(images: LabeledImages) -> Tensor:
        return cached_features(encoder, images, transform, tokens=config.tokens, runtime=config.runtime).to(device)

    used = [part for part in (splits.train, splits.test, splits.val) if part is not None]
    with naming_bad_images(*used, workers=config.runtime.processes):
        train, test, *others = map(features, used)
    val = others[0] if others else None
    identity: dict[str, Any] = {}
    if work_dir is not None:
        parts = [splits.train] if splits.val is None else [splits.train, splits.val]
        images = [[part.identity(), hashlib.sha256(part.targets.tobytes()).hexdigest()] for part in parts]
        identity = definition("linear", resolved, config) | {"images": images}
    probe = LinearProbe(config, splits, train, test, val, work_dir=work_dir, identity=identity)
    fitted: FittedClassifier | None = None
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size, "width": train.shape[1]}
    for fraction in config.label_fraction:
        labeled = draw_share(splits.train.targets, fraction, seed=config.seed)
        classifiers, chosen = probe.fit(labeled, seed=config.seed)
        scores = probe.scores(classifiers)
        for name, value in classification(scores, probe.test_targets).items():
            metrics[with_fraction(name, fraction, config.label_fraction)] = value
        details[with_fraction("chosen", fraction, config.label_fraction)] = chosen
        if fraction == max(config.label_fraction):
            details |= class_details(scores, probe.test_targets, splits)
            network = StandardizedClassifier(encoder, classifiers, tokens=config.tokens)
            fitted = FittedClassifier.of(
                network, splits.classes, splits.multilabel, transform, batch=config.runtime.batch
            )
    for shots in config.shots:
        accuracies = []
        for draw in range(config.draws):
            seed = config.seed * config.draws + draw
            labeled = draw_shots(splits.train.targets, shots, seed=seed, classes=splits.classes)
            scores, _ = probe(labeled, seed=seed)
            accuracies.append(classification(scores, probe.test_targets)["accuracy"])
        deviation = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
        metrics[f"shots{shots}"] = float(np.mean(accuracies))
        details[f"shots{shots}"] = {"draws": accuracies, "sd": deviation}
    return Result(metrics, main="map" if splits.multilabel else "accuracy", details=details, fitted=fitted)


class LinearProbe:
    """Chooses, trains and tests a linear classifier on some of the training images.

    Args:
        config: the sweep and the training.
        splits: labels of all images.
        train, test, val: features of the training, test and validation images of `splits`, [N, D].
        work_dir: folder for what is fitted so far; None keeps nothing.
        identity: everything that defines the features and the config.
    """

    def __init__(
        self,
        config: LinearConfig,
        splits: LabeledSplits,
        train: Tensor,
        test: Tensor,
        val: Tensor | None = None,
        *,
        work_dir: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.splits = config, splits
        self.train, self.test, self.val = train, test, val
        self.work_dir, self.identity = work_dir, identity
        self.train_targets, self.test_targets = (
            torch.from_numpy(images.targets).to(train.device) for images in (splits.train, splits.test)
        )
        self.settings = [(lr, weight_decay) for lr in config.lrs for weight_decay in config.weight_decays]

    def __call__(self, labeled: np.ndarray, *, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns the scores of the test images, [N, C], and how the setting was chosen; arguments as in `fit`."""
        classifiers, details = self.fit(labeled, seed=seed)
        return self.scores(classifiers), details

    def scores(self, classifiers: Classifiers) -> Tensor:
        """Scores of the test images by one classifier, [N, C], in the batches in which a saved model predicts them."""
        return torch.cat([classifiers(part)[:, 0] for part in self.test.split(self.config.runtime.batch)])

    def fit(self, labeled: np.ndarray, *, seed: int) -> tuple[Classifiers, dict[str, Any]]:
        """Returns one classifier (L = 1), and how its setting was chosen.

        Args:
            labeled: indices of the training images that have labels.
            seed: of the validation images and the order.

        Raises:
            Interrupted: a signal asked to stop; the same call resumes.
        """
        files = [self._file(part, labeled, seed) for part in ("sweep", "chosen", "done")]
        if files[2] is not None and files[2].is_file():
            state = load_checkpoint(files[2], device=self.train.device)
            return Classifiers(*(state[name] for name in CLASSIFIER)), state["details"]
        chosen, details = self._choose(labeled, seed=seed, checkpoint=files[0])
        classifiers = self._fit(labeled, [self.settings[chosen]], seed=seed, checkpoint=files[1])
        details = {**details, "images": len(labeled)}
        if files[2] is not None:
            files[2].parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(files[2], {name: getattr(classifiers, name) for name in CLASSIFIER} | {"details": details})
            for file in files[:2]:
                if file is not None:
                    file.unlink(missing_ok=True)
        return classifiers, details

    def _file(self, part: str, labeled: np.ndarray, seed: int) -> Path | None:
        """The checkpoint of a part of one fit; `repre.evaluation.runner` removes it with the others."""
        if self.work_dir is None:
            return None
        content = [self.identity, labeled.tolist(), seed]
        return self.work_dir / f"fit-{json_hash(content, length=16)}-{part}.pt"

    def _choose(self, labeled: np.ndarray, *, seed: int, checkpoint: Path | None) -> tuple[int, dict[str, Any]]:
        """The setting with the best validation metric, of equal ones the one with the smallest loss."""
        if self.splits.val is not None and self.val is not None:
            fitted, features = labeled, self.val
            targets = torch.from_numpy(self.splits.val.targets).to(features.device)
        else:
            inside, outside = hold_out(self.splits.train.targets[labeled], VALIDATION_FRACTION, seed=seed)
            validation = torch.from_numpy(labeled[outside]).to(self.train.device)
            fitted, features, targets = labeled[inside], self.train[validation], self.train_targets[validation]
        if len(self.settings) == 1 or not len(features):
            chosen = len(self.settings) // 2
            lr, weight_decay = self.settings[chosen]
            reason = "the only setting" if len(self.settings) == 1 else "the middle of the sweep: no validation image"
            return chosen, {"lr": lr, "weight_decay": weight_decay, "by": reason}
        classifiers = self._fit(fitted, self.settings, seed=seed, checkpoint=checkpoint)
        ranks = [_rank(classifiers.only(index)(features)[:, 0], targets) for index in range(len(self.settings))]
        chosen = max(range(len(ranks)), key=lambda index: ranks[index])
        sweep = [
            {"lr": lr, "weight_decay": weight_decay, "val": metric}
            for (lr, weight_decay), (metric, _) in zip(self.settings, ranks)
        ]
        lr, weight_decay = self.settings[chosen]
        by = f"{len(features)} validation images"
        return chosen, {"lr": lr, "weight_decay": weight_decay, "by": by, "sweep": sweep}

    def _fit(
        self, labeled: np.ndarray, settings: Sequence[tuple[float, float]], *, seed: int, checkpoint: Path | None
    ) -> Classifiers:
        rows = torch.from_numpy(labeled).to(self.train.device)
        return fit_linear(
            self.train[rows],
            self.train_targets[rows],
            classes=len(self.splits.classes),
            settings=settings,
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            seed=seed,
            checkpoint=checkpoint,
        )


def _rank(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Validation metric and negative loss; a setting that diverged comes last."""
    if not scores.isfinite().all():
        return -1.0, -float("inf")
    if targets.ndim == 2:
        return classification(scores, targets)["map"], -float(F.binary_cross_entropy_with_logits(scores, targets))
    return classification(scores, targets)["accuracy"], -float(F.cross_entropy(scores, targets))
