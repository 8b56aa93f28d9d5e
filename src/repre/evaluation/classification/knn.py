"""k-nearest-neighbor classification on frozen features, as DINO evaluates (arXiv 2104.14294, appendix F.1).

M  training images    N  test images    D  dimensions of the features    C  classes
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.classes import LabeledSplits
from repre.data.labels.splits import draw_share
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError, counted
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.classification.baselines import color_histogram, raw_pixels
from repre.evaluation.classification.class_details import class_details
from repre.evaluation.classification.opening import open_for
from repre.evaluation.features import Extractor, cached_features, extract_features, stream_views
from repre.evaluation.metrics import check_fractions, classification, with_fraction
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size
from repre.utils.pieces import Halving
from repre.utils.printable_text import say
from repre.utils.progress import ItemCount

DEFAULT_K = 20
DEFAULT_TEMPERATURE = 0.07
PIXEL_SIDE = 32
"""Largest side of the images whose raw pixels are compared."""


@dataclass(frozen=True, kw_only=True)
class KNNConfig:
    """k-NN on frozen embeddings: nothing is trained, no setting is chosen."""

    data: str = "scenes"
    """Class folders, csv:FILE, scenes, or a data set such as cifar10:ROOT."""
    test: str | None = None
    """Other data to test on; None uses the test images of `data`, or holds out a fifth."""
    accept_labels: bool = False
    """Accept the labels as read, even if they look wrong, such as a class with one image."""
    k: tuple[int, ...] = (10, DEFAULT_K)
    """Numbers of neighbors that vote, one metric for each. The main metric is that of 20 neighbors if it is among them."""
    temperature: float = DEFAULT_TEMPERATURE
    """A neighbor's vote has the weight exp(cosine / temperature)."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images of every class that vote, one metric for each."""
    size: Size | None = None
    """Side of the images in pixels, or their height and width; None uses the encoder's own."""
    crop_pct: float | None = None
    """Share of the image's short side that the center crop covers; None: 1 below 96 pixels, else 224 / 256."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    baselines: bool = False
    """Also score raw pixels (at most 32 x 32), color histograms and the most frequent class."""
    seed: int = 0
    """Random seed for label fractions and random weights."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, caches."""

    def __post_init__(self) -> None:
        check_fields(self, "knn")
        if not self.k or min(self.k) < 1:
            raise UserError(f"knn.k must be numbers of neighbors of at least 1, not {self.k}")
        check_fractions(self.label_fraction)


def check(resolved: ResolvedEncoder, config: KNNConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    return open_for(resolved, config)[2].identity()


def run(resolved: ResolvedEncoder, config: KNNConfig, *, work_dir: Path | None = None) -> Result:
    """Returns k-NN accuracy on the test images as ``knn20`` and so on; ``knn20_map`` for several labels per image.

    Args:
        work_dir: not used; nothing is trained.

    Raises:
        UserError: a mistake in the data or the config.
    """
    device = config.runtime.torch_device
    encoder, transform, splits = open_for(resolved, config)
    for note in splits.notes:
        say(note)
    encoder = encoder.to(device)
    with naming_bad_images(splits.train, splits.test, workers=config.runtime.processes):
        train, test = (
            cached_features(encoder, images, transform, runtime=config.runtime).to(device)
            for images in (splits.train, splits.test)
        )
    labels, targets = (torch.from_numpy(images.targets).to(device) for images in (splits.train, splits.test))
    main_k = DEFAULT_K if DEFAULT_K in config.k else max(config.k)
    metric, suffix = ("map", "_map") if splits.multilabel else ("accuracy", "")
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {**splits.details(), "size": transform.views.size, "width": train.shape[1]}
    for fraction in config.label_fraction:
        voters = torch.from_numpy(draw_share(splits.train.targets, fraction, seed=config.seed)).to(device)
        if len(voters) < max(config.k):
            note = f"only {counted(len(voters), 'training image')} can vote, but k is {max(config.k)}"
            say(note)
            details["notes"].append(note)
        votes = knn_votes(
            train[voters],
            labels[voters],
            test,
            k=config.k,
            temperature=config.temperature,
            classes=len(splits.classes),
        )
        for k, scores in votes.items():
            name = with_fraction(f"knn{k}{suffix}", fraction, config.label_fraction)
            metrics[name] = classification(scores, targets)[metric]
            if k == main_k and fraction == max(config.label_fraction):
                details |= class_details(scores, targets, splits)
    if config.baselines:
        metrics |= baseline_metrics(
            splits,
            stream_views(splits.train, transform, runtime=config.runtime),
            stream_views(splits.test, transform, runtime=config.runtime),
            transform.views,
            k=main_k,
            temperature=config.temperature,
            pixel_side=PIXEL_SIDE,
        )
    return Result(metrics, main=f"knn{main_k}{suffix}", details=details)


def baseline_metrics(
    splits: LabeledSplits,
    train: Iterable[Tensor],
    test: Iterable[Tensor],
    config: ViewsConfig,
    *,
    k: int = DEFAULT_K,
    temperature: float = DEFAULT_TEMPERATURE,
    pixel_side: int | None = None,
) -> dict[str, float]:
    """Returns ``raw_pixels`` and ``color_histogram``, k-NN without learned features; and ``majority_class``.

    Args:
        splits, train, test: as `knn_metrics` takes them.
        config: how the views were normalized.
        pixel_side: largest side of the images whose raw pixels are compared; None compares all pixels.
    """
    extractors = {"raw_pixels": raw_pixels(max_side=pixel_side), "color_histogram": color_histogram(config)}
    metrics = knn_metrics(extractors, splits, train, test, k=k, temperature=temperature)
    if not splits.multilabel:
        majority = torch.from_numpy(splits.train.targets).bincount().argmax()
        metrics["majority_class"] = float((torch.from_numpy(splits.test.targets) == majority).double().mean())
    return metrics


def knn_metrics(
    extractors: Mapping[str, Extractor],
    splits: LabeledSplits,
    train: Iterable[Tensor],
    test: Iterable[Tensor],
    *,
    k: int = DEFAULT_K,
    temperature: float = DEFAULT_TEMPERATURE,
) -> dict[str, float]:
    """Returns the accuracy of k-NN on the features of every extractor (mAP for several labels per image).

    Args:
        splits: the labels of all images.
        train, test: the views of the training and test images of `splits`, in batches [B, C, H, W] (`stream_views`).
    """
    functions, classes = list(extractors.values()), len(splits.classes)
    features = zip(extractors, extract_features(train, functions), extract_features(test, functions))
    labels, targets = (torch.from_numpy(images.targets) for images in (splits.train, splits.test))
    metrics = {}
    for name, voters, queries in features:
        votes = knn_votes(voters, labels, queries, k=(k,), temperature=temperature, classes=classes)
        metrics[name] = classification(votes[k], targets)["map" if splits.multilabel else "accuracy"]
    return metrics


@torch.no_grad()
def knn_votes(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    k: Sequence[int],
    temperature: float = DEFAULT_TEMPERATURE,
    classes: int,
) -> dict[int, Tensor]:
    """Returns the votes of the k nearest training features for every class, float32 [N, C], for every k.

    With one label per image the votes of a test image sum to 1. In slow loops::

        for i in range(N):
            nearest = the k largest of [cos(test[i], train[j]) for j in range(M)]
            votes[labels[j]] += exp(cos(test[i], train[j]) / temperature)   for j in nearest
        votes / the sum of all weights

    Args:
        train: [M, D].
        labels: int64 [M], or 0/1 [M, C] for several labels per image, each of which gets the vote.
        test: [N, D].
        k: numbers of neighbors; all training features vote if there are fewer.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    return nearest_votes(train, labels, test, k=k, temperature=temperature, classes=classes)


@torch.no_grad()
def nearest_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, k: Sequence[int], temperature: float, classes: int
) -> dict[int, Tensor]:
    """Returns what `knn_votes` does, for features of unit length.

    Args:
        labels: also shares of the classes, [M, C], by which a neighbor splits its vote.
    """

    def votes_of(rows: slice) -> list[Tensor]:
        cosines, neighbors = (test[rows] @ train.T).topk(min(max(k), len(train)), dim=1)  # [n, max k]
        weights = ((cosines - cosines[:, :1]) / temperature).exp()  # relative to the largest, so that none overflows
        return [vote(weights[:, :number], neighbors[:, :number]) for number in k]

    def vote(weights: Tensor, nearest: Tensor) -> Tensor:
        if labels.ndim == 2:
            votes = (weights[..., None] * labels[nearest]).sum(1)
        else:
            votes = torch.zeros(len(weights), classes, device=weights.device)
            votes.scatter_add_(1, labels[nearest], weights)
        return votes / weights.sum(1, keepdim=True)

    pieces = Halving(max(16, min(1024, 2**27 // len(train))))
    found = []
    with ItemCount("k-NN", total=len(test)) as counter:
        for votes in pieces(len(test), votes_of):
            found.append(votes)
            counter.update(len(votes[0]))
    return dict(zip(k, map(torch.cat, zip(*found))))
