"""Semantic segmentation: a linear head on frozen maps, or UPerNet trained end to end. mIoU at the masks' own resolution.

linear and frozen   the head is trained on cached maps of all windows, without augmentation (`frozen_maps`)
otherwise           encoder and head see random crops, resized on the device (`segmenter`)

The training has the same number of steps for every label fraction: with fewer labels, images are shown more often. So
a curve over fractions compares labels, not the length of training.

    n  windows of an image    S  side of a window    K  classes    H, W  height and width of an image
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from repre.data.io.value_ranges import check_labeled_values
from repre.data.labels.masks import MaskOptions, MaskSource, open_masks
from repre.data.labels.problems import Problems
from repre.data.labels.same_images import notes_on_pair
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import WindowsConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.fit import FitConfig
from repre.evaluation.fitted.fitted_segmenter import FittedSegmenter, SegmentHead
from repre.evaluation.fitted.fitted_windows import WindowPreprocessing
from repre.evaluation.maps import window_side
from repre.evaluation.metrics import check_fractions, with_fraction
from repre.evaluation.options import DenseFeatures, RuntimeOptions, check_window_options
from repre.evaluation.result import Result, data_details, definition, pair_identity
from repre.evaluation.segmentation.miou import Confusion, Scores
from repre.evaluation.segmentation.overlay import save_overlay
from repre.evaluation.segmentation.segmentation_heads import segmentation_head
from repre.evaluation.segmentation.segmentation_loss import class_weights, segmentation_loss
from repre.evaluation.segmentation.segmentation_task import ImageLogits, SegmentationTask
from repre.evaluation.segmentation.segmenter import class_map, train_head
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Semantic segmentation of any data with masks."""

    data: str = "scenes"
    """Images with masks: scenes, scenes:COUNT:SIZE, ade20k:DIR, voc:DIR, pairs:IMAGES,MASKS or pairs:DIR."""
    test: str | None = None
    """Other data to test on, with the same classes; None uses the validation images of `data`, or holds out a fifth."""
    colors: str | None = None
    """Table of the colors of the classes in masks: a line `class: r,g,b` each (or `class: number`), or a CSV with the header
    name,r,g,b. None: color masks use colors.txt or class_dict.csv next to their folder."""
    ignore_label: tuple[int | str, ...] = ()
    """Numbers or names of classes to leave out of loss and metric; 255 is left out too, unless it is a class."""
    reduce_zero_label: bool = False
    """Ignore the number 0; 1 becomes the first class."""
    binary: bool = False
    """The masks have two classes: 0, and 255 or 1."""
    skip_unlabeled: bool = False
    """Leave out images that have no mask."""
    accept_labels: bool = False
    """Accept the labels as read, even if they look wrong, such as numbers with gaps."""
    head: Literal["linear", "upernet"] = "linear"
    """Batch normalization and a 1x1 convolution, or UPerNet."""
    frozen: bool | None = None
    """Whether the encoder is frozen; None: frozen with a linear head, trained with UPerNet."""
    levels: Literal["all", "last"] = "all"
    """Maps that the linear head uses; UPerNet uses all."""
    features: DenseFeatures = "normed"
    """Maps after the encoder's final norm, or raw from its blocks."""
    width: int = 256
    """Channels of UPerNet's maps; most published results use 512."""
    size: int | None = None
    """Side of the windows and crops in pixels; None uses the encoder's own image size."""
    window: Literal["slide", "pad", "resize"] = "slide"
    """How an image of another size or aspect is cut: overlapping windows over the image, whose short side is resized to
    `size`; one padded window of its long side; or one window of the whole image, whatever its aspect."""
    overlap: float = 1 / 3
    """Share of a sliding window that overlaps with the next one."""
    short_side: int | None = None
    """Short side in pixels to which images are resized for sliding windows; None: `size`, 0: images are not resized."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    class_weights: bool = False
    """Weight classes in the loss by their median frequency (Eigen and Fergus 2015, arXiv 1411.4734)."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images that have labels; smaller subsets are part of larger ones. One metric for
    each."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Smallest and largest factor by which a training image is resized before it is cropped; not used on cached maps."""
    jitter: float = 0.0
    """Probability of a color jitter of a training crop."""
    save_predictions: int = 0
    """Number of test images to draw with truth and prediction."""
    seed: int = 0
    """Random seed for the head, the order, the crops, the choice of labeled images and random weights."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Training; layer-wise learning rates and drop path only apply if the encoder is trained."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        check_fields(self, "segment")
        check_fractions(self.label_fraction)
        _ = self.masks  # its own checks
        check_window_options("segment", size=self.size, overlap=self.overlap)
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise UserError(f"segment.scale must be (smallest, largest) between 0.1 and 10, not {self.scale}")
        if not 0 <= self.jitter <= 1:
            raise UserError(f"segment.jitter is a probability and must lie in [0, 1], not {self.jitter}")
        if self.head == "upernet" and self.fit.batch_size < 2:
            raise UserError("fit.batch_size must be at least 2 with UPerNet, which normalizes over the batch")

    @property
    def masks(self) -> MaskOptions:
        """How the pixels of mask files become classes."""
        return MaskOptions(
            colors=self.colors,
            ignore_label=self.ignore_label,
            reduce_zero_label=self.reduce_zero_label,
            binary=self.binary,
            skip_unlabeled=self.skip_unlabeled,
            accept_labels=self.accept_labels,
        )

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder is frozen, with the default of the head."""
        return self.head == "linear" if self.frozen is None else self.frozen


def check(resolved: ResolvedEncoder, config: SegmentConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    train, test = _open(resolved, config)
    resolved.build(image_size=config.size)
    return pair_identity(train, test)


def _open(resolved: ResolvedEncoder, config: SegmentConfig) -> tuple[MaskSource, MaskSource]:
    """The training and the test images."""
    return open_train_and_test(
        config.data,
        config.test,
        channels=resolved.config.channels,
        value_range=config.value_range or resolved.value_range,
        options=config.masks,
    )


def run(resolved: ResolvedEncoder, config: SegmentConfig, *, work_dir: Path | None = None) -> Result:
    """Trains a head and returns ``miou`` and ``pixel_accuracy``; ``miou@0.1`` and so on for label fractions.

    Args:
        work_dir: folder for checkpoints, from which an interrupted training resumes, and for drawn predictions.

    Raises:
        UserError: a mistake in the data or the config, or an image cannot be read.
        Interrupted: a signal asked to stop.
    """
    if config.save_predictions and work_dir is None:
        raise UserError("save_predictions needs work_dir, the folder to save to")
    train, test = _open(resolved, config)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"train_images": len(train), "val_images": len(test), "frozen": config.is_frozen}
    details |= data_details(train, test, config.test, notes_on_pair(train, test))
    fractions = sorted(config.label_fraction, reverse=True)
    fitted: FittedSegmenter | None = None
    for fraction in fractions:
        labeled = label_subset(len(train), fraction, seed=config.seed)
        pictures = config.save_predictions if fraction == fractions[0] else 0
        with naming_bad_images(train, test, workers=config.runtime.processes):
            task = _task(resolved, config, train, test, labeled, work_dir=work_dir)
            summary, logits, model = _train(task, config)
            scores = score(logits, test, pictures=pictures, work_dir=work_dir)
        details["size"] = task.windows.size
        fitted = fitted or model  # of the largest fraction, which comes first
        for name, value in (("miou", scores.miou), ("pixel_accuracy", scores.pixel_accuracy)):
            metrics[with_fraction(name, fraction, fractions)] = value
        details[with_fraction("iou", fraction, fractions)] = dict(zip(test.classes, scores.iou))
        details[with_fraction("fit", fraction, fractions)] = {"fraction": fraction, "images": len(labeled), **summary}
    return Result(metrics, "miou", details, fitted=fitted)


def open_train_and_test(
    data: str,
    test: str | None,
    *,
    channels: int,
    value_range: tuple[float, float] | None = None,
    options: MaskOptions | None = None,
    range_option: str = "--value-range",
) -> tuple[MaskSource, MaskSource]:
    """Opens training images, and test images with the same classes.

    Args:
        data, test: as in `SegmentConfig`.
        channels: of the images.
        value_range: pixel values that map to 0 and 1; None uses those of the file type.
        options: how the pixels of mask files become classes.
        range_option: with which a range of values is declared, for messages.

    Raises:
        UserError: there are no such images, their values do not fit their range, or their classes differ.
    """
    train_images, test_images = (
        open_masks(
            spec,
            split=split,
            channels=channels,
            whole=test is not None,
            value_range=value_range,
            options=options,
            problems=Problems(accept=accept),
        )
        for spec, split, accept in (
            (data, "train", options is not None and options.accept_labels),
            (test or data, "val", True),  # a few test images may lack most classes
        )
    )
    train_classes, test_classes = train_images.classes, test_images.classes
    if test_classes != train_classes[: len(test_classes)]:
        raise UserError(
            f"the classes of --test {test} ({test_classes[:5]}) differ from those of --data {data} ({train_classes[:5]}); "
            "give both the same classes.txt"
        )
    check_labeled_values(train_images, value_range, option=range_option)
    test_images.classes = train_classes  # without classes.txt they are counted, and test images may lack the last ones
    return train_images, test_images


def _task(
    resolved: ResolvedEncoder,
    config: SegmentConfig,
    train: MaskSource,
    test: MaskSource,
    labeled: list[int],
    *,
    work_dir: Path | None,
) -> SegmentationTask:
    """Builds encoder and head, and collects everything that the training needs."""
    drop_path = 0.0 if config.is_frozen else config.fit.drop_path
    encoder = resolved.build(image_size=config.size, drop_path=drop_path, seed=config.seed)
    side = window_side(encoder)
    levels = list(range(len(encoder.out_indices)))
    if config.head == "linear" and config.levels == "last":
        levels = levels[-1:]
    torch.manual_seed(config.seed)  # the same head for every encoder with maps of these widths
    head = segmentation_head(
        encoder, levels, kind=config.head, classes=len(train.classes), width=config.width, frozen=config.is_frozen
    )
    mean, std = ViewsConfig(mean=resolved.mean, std=resolved.std).statistics(encoder.config.channels)
    weights = class_weights(train, labeled).to(config.runtime.torch_device) if config.class_weights else None
    return SegmentationTask(
        encoder=encoder,
        frozen=config.is_frozen,
        head=head,
        levels=levels,
        norm=config.features == "normed",
        train=train,
        test=test,
        labeled=labeled,
        windows=WindowsConfig(size=side, mode=config.window, overlap=config.overlap, short_side=config.short_side),
        mean=mean,
        std=std,
        value_range=config.value_range or resolved.value_range,
        scale=config.scale,
        jitter=config.jitter,
        loss=partial(segmentation_loss, weights=weights),
        fit=config.fit,
        seed=config.seed,
        runtime=config.runtime,
        work_dir=work_dir,
        identity=definition("segment", resolved, config) | {"data": [train.fingerprint(), labeled]},
    )


def _train(
    task: SegmentationTask, config: SegmentConfig
) -> tuple[dict[str, float], Iterable[ImageLogits], FittedSegmenter]:
    """Trains the head; returns the summary of `fit`, the logits of the test images, computed as they are read, and
    encoder and head as a model to keep."""
    on_maps = config.head == "linear" and config.is_frozen
    model, summary, logits = train_head(task, on_maps=on_maps)
    fitted = FittedSegmenter(
        model,
        classes=task.train.classes,
        head=SegmentHead(
            kind=config.head, width=config.width, levels=tuple(task.levels), norm=task.norm, half_maps=on_maps
        ),
        preprocessing=WindowPreprocessing.of(task),
        batch=config.runtime.batch,
    )
    return summary, logits, fitted


def score(
    logits: Iterable[ImageLogits], test: MaskSource, *, pictures: int = 0, work_dir: Path | None = None
) -> Scores:
    """Scores all test images, and draws `pictures` of them, evenly spread, into ``predictions/``."""
    confusion = Confusion(len(test.classes))
    drawn = set(np.linspace(0, len(test) - 1, min(pictures, len(test))).round().astype(int).tolist())
    for index, (windows, plan, truth) in enumerate(logits):
        predicted = class_map(windows, plan, (truth.shape[0], truth.shape[1]))
        confusion.add(truth.to(predicted.device), predicted)
        if index in drawn and work_dir is not None:
            stem = Path(test.describe(index)).stem.replace(":", "-")
            path = work_dir / "predictions" / f"{index:05d}-{stem}.png"
            save_overlay(path, test.load(index)[0], truth.numpy(), predicted.cpu().numpy(), test.classes)
    return confusion.scores()
