"""A fitted classifier of images, by `repre eval linear` or `repre eval finetune`.

B  images    C  channels    H, W  height and width of a view    K  classes    D  dimensions of the features
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from repre.data.io.image_files import Decoding
from repre.data.loading.loader import stack
from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.classification.classifier import Classifier, StandardizedClassifier
from repre.evaluation.classification.linear_fit import Classifiers
from repre.evaluation.fitted.fitted_model import (
    FittedModel,
    PredictOptions,
    check_range,
    check_sides,
    check_statistics,
)
from repre.evaluation.fitted.predictions import Classes
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.models.transform import Transform
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically
from repre.utils.pieces import Halving
from repre.utils.printable_text import printable


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """A linear layer."""

    standardized: bool
    """On standardized features, as `repre eval linear` fits it; else on the pooled embedding."""
    tokens: bool = False
    """The features end with the mean of the patch tokens."""
    multilabel: bool = False
    """An image may have several labels."""


@dataclass(frozen=True, kw_only=True)
class ViewPreprocessing:
    """Resize, center crop, normalize; see `repre.data.views.render.center_view`."""

    size: tuple[int, int]
    """Height and width of the view."""
    crop_pct: float
    """Share of the image's short side that the crop covers."""
    mean: tuple[float, ...]
    """Mean of every channel."""
    std: tuple[float, ...]
    """Standard deviation of every channel."""
    value_range: tuple[float, float] | None = None
    """Pixel values that become 0 and 1; None: those of the file type."""

    def __post_init__(self) -> None:
        check_fields(self, "preprocessing")
        check_statistics(self.mean, self.std)
        check_range(self.value_range)
        check_sides(height=self.size[0], width=self.size[1])

    @property
    def transform(self) -> Transform:
        """The same as a function."""
        views = ViewsConfig(size=self.size, mean=self.mean, std=self.std, value_range=self.value_range)
        return Transform(views, self.crop_pct)


class FittedClassifier(FittedModel):
    """Images [B, C, H, W] -> scores [B, K]: logits; softmax or, with several labels, sigmoid gives probabilities."""

    task = "classify"
    Head, Preprocessing = ClassifierHead, ViewPreprocessing
    output = "scores"
    file_name = "predictions.csv"
    head: ClassifierHead
    preprocessing: ViewPreprocessing
    network: Classifier | StandardizedClassifier

    @classmethod
    def of(
        cls,
        network: Classifier | StandardizedClassifier,
        classes: Sequence[str],
        multilabel: bool,
        transform: Transform,
        *,
        batch: int,
    ) -> Self:
        """The model of an evaluation that classified views of `transform`."""
        standardized = isinstance(network, StandardizedClassifier)
        views = transform.views
        mean, std = (values.flatten().tolist() for values in views.statistics(network.encoder.config.channels))
        return cls(
            network,
            classes=classes,
            head=ClassifierHead(
                standardized=standardized,
                tokens=isinstance(network, StandardizedClassifier) and network.tokens,
                multilabel=multilabel,
            ),
            preprocessing=ViewPreprocessing(
                size=views.shape,
                crop_pct=transform.crop_pct,
                mean=tuple(mean),
                std=tuple(std),
                value_range=views.value_range,
            ),
            batch=batch,
        )

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        *,
        classes: Sequence[str],
        head: ClassifierHead,
        preprocessing: ViewPreprocessing,
        batch: int,
    ) -> Self:
        check_statistics(preprocessing.mean, preprocessing.std, channels=encoder.config.channels)
        network: Classifier | StandardizedClassifier
        if head.standardized:
            width = encoder.embedding_dim + (encoder.patch_dim if head.tokens else 0)
            weight, bias = torch.zeros(width, 1, len(classes)), torch.zeros(1, len(classes))
            empty = Classifiers(torch.zeros(width), torch.ones(width), weight, bias)
            network = StandardizedClassifier(encoder, empty, tokens=head.tokens)
        else:
            network = Classifier(encoder, len(classes))
        return cls(network, classes=classes, head=head, preprocessing=preprocessing, batch=batch)

    @property
    def activation(self) -> str:
        return "sigmoid" if self.head.multilabel else "softmax"

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(images)
        return scores

    @property
    def decoding(self) -> Decoding:
        return self.preprocessing.transform.decoding(self.encoder.config.channels)

    @property
    def reader(self) -> Callable[[np.ndarray], np.ndarray]:
        return np.asarray  # the images of a batch are stacked and transformed together

    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[np.ndarray], list[str]], list[Classes]]:
        transform, pieces = self.preprocessing.transform, Halving()

        def scores(views: Tensor, rows: slice) -> Tensor:
            return self.network.scores(views[rows], runtime.dtype)

        def predict(images: list[np.ndarray], names: list[str]) -> list[Classes]:
            pixels, sizes = stack(images)
            views = transform(pixels.to(runtime.torch_device, non_blocking=True), sizes)
            found = torch.cat([*pieces(len(views), partial(scores, views))])
            probabilities = found.sigmoid() if self.head.multilabel else found.softmax(1)
            return [self._classes(name, row, options.threshold) for name, row in zip(names, probabilities.numpy())]

        return predict

    def _classes(self, name: str, probabilities: np.ndarray, threshold: float) -> Classes:
        order = np.argsort(-probabilities, kind="stable")
        if self.head.multilabel:
            order = order[probabilities[order] >= threshold]
        labels = tuple(self.classes[index] for index in order)
        return Classes(name, labels, tuple(float(probabilities[index]) for index in order), probabilities)

    def write(self, prediction: Classes, name: str, folder: Path, options: PredictOptions) -> dict[str, Any]:
        count = len(prediction.labels) if self.head.multilabel else options.top
        scores = [round(score, 6) for score in prediction.scores[:count]]
        return {"path": prediction.name, "labels": prediction.labels[:count], "scores": scores}

    def join(self, rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, options: PredictOptions) -> None:
        """Writes ``predictions.csv``: path, label, score, label_2, score_2 and so on; or all labels joined by semicolons."""
        top = 1 if self.head.multilabel else min(options.top, len(self.classes))
        header = ["path", "label", "score"]
        for number in range(2, top + 1):
            header += [f"label_{number}", f"score_{number}"]

        def cells(row: dict[str, Any]) -> list[str]:
            scores = [f"{score:.6f}" for score in row["scores"]]
            if self.head.multilabel:
                return [row["path"], ";".join(row["labels"]), ";".join(scores)]
            return [row["path"], *(cell for pair in zip(row["labels"], scores) for cell in pair)]

        write_csv(folder / self.file_name, header, map(cells, rows()))


def write_csv(path: Path, header: list[str], rows: Iterator[list[str]]) -> None:
    """Writes a table atomically, a line for each row: control characters are escapes, other bytes of names stay."""

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([*map(printable, row)] for row in chain([header], rows))
        text.flush()
        text.detach()

    write_atomically(path, write)
