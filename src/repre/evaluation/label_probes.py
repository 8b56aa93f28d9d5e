"""Probes on the user's own labels during pre-training: what `ProbeConfig` names, measured on an encoder in memory.

Every image is embedded once per validation, also where k-NN and the linear classifier have the same data.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repre.config import RunConfig
from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.problems import Problems
from repre.data.labels.splits import LabeledImages, draw_share
from repre.errors import RunError, UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.classification.knn import DEFAULT_K, knn_votes
from repre.evaluation.classification.linear import LinearConfig, LinearProbe
from repre.evaluation.features import encoder_extractor, extract_features, stream_views
from repre.evaluation.metrics import classification
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.segment_probe import SegmentProbe
from repre.models.encoder import Encoder
from repre.models.transform import Transform, usual_crop

KEPT_BYTES = 2**30
"""Largest size of the views of a set of images that are kept in memory; larger ones are made again at every validation."""
LINEAR = LinearConfig(lrs=(2e-3, 1e-2, 5e-2), steps=500)
"""Training of the linear classifier: a tenth of the training images chooses the learning rate."""
MASK_OPTIONS = re.compile(r"--(colors|ignore-label|reduce-zero-label|binary|skip-unlabeled|accept-labels)\b")


class LabelProbes:
    """Measures an encoder on the labels that a run's config names; gives the metrics of `ProbeConfig.metrics`.

    Images and masks are opened and checked here, and read when they are first used.

    Raises:
        UserError: the labels do not exist, or something in them is wrong; names the option.
    """

    def __init__(self, config: RunConfig) -> None:
        probe, channels = config.probe, config.encoder.channels
        precision: Any = "fp32" if config.compute.precision == "fp32" else "auto"
        self.probe = probe
        self.runtime = RuntimeOptions(precision=precision, workers=config.runtime.workers)
        self.transform = Transform(config.views, usual_crop(config.views.shape))
        self.classified: dict[str, ClassifiedViews] = {}
        for option, spec in (("knn", probe.knn), ("linear", probe.linear)):
            if spec is not None and spec not in self.classified:
                with _named(option):
                    doubts = Problems(accept=probe.accept_labels)
                    splits = open_labeled(spec, problems=doubts, **self.transform.decoding(channels))
                self.classified[spec] = ClassifiedViews(_some(splits, probe.images), self.transform, self.runtime)
        self.segment: SegmentProbe | None = None
        if probe.segment is not None:
            with _named("segment"):
                self.segment = SegmentProbe(
                    probe.segment,
                    probe.masks,
                    views=config.views,
                    channels=channels,
                    images=probe.images,
                    runtime=self.runtime,
                )

    def __call__(self, encoder: Encoder, step: int = 0) -> dict[str, float]:
        """Measures an encoder in evaluation mode. `step` is not used; `repre.training` passes it to probes.

        Raises:
            UserError: an image or a mask cannot be read.
            RunError: the features are not finite, or the temporary folder cannot be written.
        """
        metrics: dict[str, float] = {}
        device = next(encoder.parameters()).device
        runtime = replace(self.runtime, device=str(device))
        extractor = encoder_extractor(encoder, precision=runtime.dtype)
        for spec, data in self.classified.items():
            both = (data.splits.train, data.splits.test)
            option = "knn" if spec == self.probe.knn else "linear"
            with _named(option), naming_bad_images(*both, workers=runtime.processes):
                train, test = (extract_features(views, [extractor])[0].to(device) for views in (data.train, data.test))
            if not (train.isfinite().all() and test.isfinite().all()):
                raise RunError(f"the features of {spec} are not finite; the encoder's weights are broken")
            if spec == self.probe.knn:
                metrics["probe/knn"] = data.knn(train, test)
            if spec == self.probe.linear:
                metrics["probe/linear"] = data.linear(train, test)
        if self.segment is not None:
            both_masks = (self.segment.train, self.segment.test)
            with _named("segment"), naming_bad_images(*both_masks, workers=runtime.processes):
                metrics |= self.segment(encoder)
        return metrics

    def describe(self) -> str:
        """Returns a line per metric: how many images it is measured on."""
        return "\n".join(
            f"{metric}: {counts['train_images']} labeled images to learn from, {counts['test_images']} to test on"
            for metric, counts in self.images().items()
        )

    def images(self) -> dict[str, dict[str, Any]]:
        """Returns for every metric the data that it is measured on, and the numbers of training and test images."""
        found = {}
        for metric, spec in (("probe/knn", self.probe.knn), ("probe/linear", self.probe.linear)):
            if spec is not None:
                found[metric] = _counts(spec, self.classified[spec].splits.train, self.classified[spec].splits.test)
        if self.segment is not None:
            for metric in ("probe/miou", "probe/patch_knn"):
                found[metric] = _counts(str(self.probe.segment), self.segment.train, self.segment.test)
        return found


class ClassifiedViews:
    """Training and test images with classes, and their views.

    Args:
        splits: the images.
        transform: renders the views.
        runtime: batch and workers.
    """

    def __init__(self, splits: LabeledSplits, transform: Transform, runtime: RuntimeOptions) -> None:
        self.splits = splits
        self.train, self.test = (KeptViews(part, transform, runtime) for part in (splits.train, splits.test))

    def knn(self, train: Tensor, test: Tensor) -> float:
        """Returns the accuracy of 20 nearest neighbors (mAP for several labels per image) on features [N, D]."""
        labels = torch.from_numpy(self.splits.train.targets).to(train.device)
        votes = knn_votes(train, labels, test, k=(DEFAULT_K,), classes=len(self.splits.classes))
        return self._metric(votes[DEFAULT_K])

    def linear(self, train: Tensor, test: Tensor) -> float:
        """Returns the accuracy of a linear classifier (mAP for several labels per image) on features [N, D]."""
        scores, _ = LinearProbe(LINEAR, self.splits, train, test)(np.arange(len(train)), seed=0)
        return self._metric(scores)

    def _metric(self, scores: Tensor) -> float:
        targets = torch.from_numpy(self.splits.test.targets)
        return classification(scores, targets)["map" if self.splits.multilabel else "accuracy"]


class KeptViews:
    """The views of some images on the CPU, in batches [B, C, H, W]: kept after the first time if they are small enough."""

    def __init__(self, images: LabeledImages, transform: Transform, runtime: RuntimeOptions) -> None:
        self.stream = partial(stream_views, images, transform, runtime=replace(runtime, device="cpu"))
        self.kept: list[Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        if self.kept is not None:
            yield from self.kept
            return
        kept, size = list[Tensor](), 0
        for views in self.stream():
            size += views.nbytes
            kept = [*kept, views] if size <= KEPT_BYTES else []
            yield views
        if size <= KEPT_BYTES:
            self.kept = kept


def _some(splits: LabeledSplits, count: int) -> LabeledSplits:
    """At most about `count` training images and as many test images, the same share of every class."""

    def some(images: LabeledImages) -> LabeledImages:
        share = count / max(len(images), 1)
        return images if share >= 1 else images.take(draw_share(images.targets, share, seed=0))

    return replace(splits, train=some(splits.train), test=some(splits.test), val=None)


def _counts(spec: str, train: Any, test: Any) -> dict[str, Any]:
    return {"data": spec, "train_images": len(train), "test_images": len(test)}


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Messages name the options of `repre pretrain`, not those of `repre eval`."""
    try:
        yield
    except UserError as error:
        prefix = "--probe.masks." if option == "segment" else "--probe."
        text = MASK_OPTIONS.sub(rf"{prefix}\1", str(error)).replace("--data", f"--probe.{option}")
        text = text.replace(", or name test data with --test", "")
        raise UserError(text if f"--probe.{option}" in text else f"--probe.{option}: {text}") from error
