"""k-nearest-neighbor classification on frozen features, as DINO evaluates (arXiv 2104.14294, appendix F.1).

M  training images    N  test images    D  width of the features    C  classes
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.splits import draw_share
from repre.errors import UserError
from repre.evaluation.features import (
    Transform,
    cached_features,
    color_histogram,
    eval_transform,
    extract_all,
    raw_pixels,
)
from repre.evaluation.metrics import check_fractions, classification, per_class, with_share
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields

USUAL = 20
PIXELS = 32
"""Largest side of the images whose raw pixels are compared."""


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """k-NN on frozen embeddings: nothing is trained, nothing is chosen."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None takes the test images of `data`, or holds a fifth of it out."""
    k: tuple[int, ...] = (10, USUAL)
    """How many neighbors vote, one figure for each; 20 is the figure to compare by if it is among them."""
    temperature: float = 0.07
    """Of the votes' weights exp(cosine / temperature)."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Shares of the training images that may vote, of every class alike; one figure for each."""
    size: int | None = None
    """Side of the images in pixels; None takes the encoder's own."""
    crop_pct: float | None = None
    """Share of the image\'s short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the files' type."""
    baselines: bool = False
    """Also say what raw pixels (at most 32 x 32) and color histograms reach, and the most frequent class."""
    seed: int = 0
    """Draws label fractions and random weights."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "knn")
        if not self.k or min(self.k) < 1:
            raise UserError(f"k must name at least one number of neighbors from 1 on, not {self.k}")
        if self.temperature <= 0:
            raise UserError(f"temperature must be above 0, not {self.temperature}")
        check_fractions(self.label_fraction)


def run(start: ResolvedEncoder, config: KNNConfig, *, work: Path | None = None) -> Result:
    """k-NN accuracy on the test images: ``knn20`` and alike; mean average precision with several labels per image."""
    device = config.runtime.torch_device
    encoder = start.build(image_size=config.size, seed=config.seed).to(device)
    transform = eval_transform(start, encoder, crop_pct=config.crop_pct, value_range=config.value_range)
    splits = open_labeled(config.data, test=config.test, channels=encoder.config.channels, canvas=transform.canvas)
    train, test = (
        cached_features(encoder, images, transform, runtime=config.runtime).to(device)
        for images in (splits.train, splits.test)
    )
    labels, truth = (torch.from_numpy(images.targets).to(device) for images in (splits.train, splits.test))
    main = USUAL if USUAL in config.k else max(config.k)
    suffix, figure = ("_map", "map") if splits.multilabel else ("", "accuracy")
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size, "width": train.shape[1]}
    for share in config.label_fraction:
        voters = torch.from_numpy(draw_share(splits.train.targets, share, seed=config.seed)).to(device)
        votes = knn_votes(
            train[voters],
            labels[voters],
            test,
            k=config.k,
            temperature=config.temperature,
            classes=len(splits.classes),
        )
        for k, scores in votes.items():
            name = with_share(f"knn{k}{suffix}", share, config.label_fraction)
            metrics[name] = classification(scores, truth)[figure]
            if k == main and share == max(config.label_fraction):
                details["per_class"] = per_class(scores, truth, splits.classes)
    if config.baselines:
        metrics |= _baselines(splits, transform, k=main, temperature=config.temperature, runtime=config.runtime)
    return Result(metrics, main=f"knn{main}{suffix}", details=details)


def _baselines(
    splits: LabeledSplits, transform: Transform, *, k: int, temperature: float, runtime: RuntimeOptions
) -> dict[str, float]:
    """k-NN on features that nobody learned, with all training labels; and the most frequent class."""

    def small_pixels(views: Tensor) -> Tensor:
        side = min(PIXELS, views.shape[-1])
        return raw_pixels(F.interpolate(views, side, mode="bilinear", antialias=True))

    extractors = [small_pixels, color_histogram(transform.views)]
    train, test = (
        extract_all(images, transform, extractors, runtime=runtime) for images in (splits.train, splits.test)
    )
    labels, truth = (torch.from_numpy(images.targets) for images in (splits.train, splits.test))
    metrics = {}
    for name, mine, theirs in zip(("raw_pixels", "color_histogram"), train, test):
        votes = knn_votes(mine, labels, theirs, k=(k,), temperature=temperature, classes=len(splits.classes))
        metrics[name] = classification(votes[k], truth)["map" if splits.multilabel else "accuracy"]
    if not splits.multilabel:
        metrics["majority_class"] = float((truth == labels.bincount().argmax()).double().mean())
    return metrics


@torch.no_grad()
def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, k: Sequence[int], temperature: float = 0.07, classes: int
) -> dict[int, Tensor]:
    """Votes for every class by the k nearest training features, for every k; each float32 [N, C], summing to 1 over
    the classes where an image has one label.

    Slowly::

        for i in range(N):
            near = the k largest of [cos(test[i], train[j]) for j in range(M)]
            votes[labels[j]] += exp(cos(test[i], train[j]) / temperature)   for j in near
        votes / the sum of all weights

    Args:
        train: [M, D]; test: [N, D].
        labels: int64 [M], or 0/1 [M, C] where an image votes for each of its labels.
        k: numbers of neighbors; where there are fewer training features, all of them vote.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    found: dict[int, list[Tensor]] = {number: [] for number in k}
    for part in test.split(max(16, min(1024, 2**27 // len(train)))):
        cosines, nearest = (part @ train.T).topk(min(max(k), len(train)), dim=1)  # [n, max k]
        weights = ((cosines - cosines[:, :1]) / temperature).exp()  # less the largest, so that none overflows
        for number, parts in found.items():
            weight, near = weights[:, :number], nearest[:, :number]
            if labels.ndim == 2:
                votes = (weight[..., None] * labels[near]).sum(1)
            else:
                votes = torch.zeros(len(part), classes, device=part.device).scatter_add_(1, labels[near], weight)
            parts.append(votes / weight.sum(1, keepdim=True))
    return {number: torch.cat(parts) for number, parts in found.items()}


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = USUAL, temperature: float = 0.07, classes: int
) -> Tensor:
    """Class of every test feature, the one with most votes (`knn_votes`): int64 [N]."""
    return knn_votes(train, labels, test, k=(k,), temperature=temperature, classes=classes)[k].argmax(1)


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, *, k: int = USUAL, classes: int) -> float:
    """Share of test features [N, D] that `knn_predict` puts into their true class [N]."""
    return float((knn_predict(train, labels, test, k=k, classes=classes) == truth).double().mean())
