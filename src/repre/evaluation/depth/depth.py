"""Depth as a dense regression: a linear head on the maps of an encoder predicts the logarithm of every pixel's depth.

frozen      the head is trained on cached maps of all windows, without augmentation (`frozen_maps`)
otherwise   encoder and head see random windows, flipped half of the time and never resized, since that would change depth

Predictions are compared at the depth maps' own resolution.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from repre.data.io.value_ranges import check_labeled_values
from repre.data.labels.depth_pairs import DepthPairs, check_scale, open_depth
from repre.data.labels.problems import Problems
from repre.data.labels.same_images import notes_on_pair
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import WindowsConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.depth.depth_loss import scale_invariant_loss
from repre.evaluation.depth.depth_metrics import DepthErrors
from repre.evaluation.depth.predicted_depth import NEAREST, predict_depth
from repre.evaluation.fit import FitConfig
from repre.evaluation.fitted.fitted_depth import DepthHead, FittedDepth
from repre.evaluation.fitted.fitted_windows import WindowPreprocessing
from repre.evaluation.maps import window_side
from repre.evaluation.metrics import check_fractions, with_fraction
from repre.evaluation.options import DenseFeatures, RuntimeOptions, check_window_options
from repre.evaluation.result import Result, data_details, definition, pair_identity
from repre.evaluation.segmentation.segmentation_heads import LinearHead
from repre.evaluation.segmentation.segmentation_task import SegmentationTask
from repre.evaluation.segmentation.segmenter import Segmenter, train_head
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Depth of every pixel, on pairs of images and depth maps."""

    data: str = ""
    """Images with depth maps: pairs:IMAGES,DEPTHS or pairs:DIR. Depth maps are 16-bit PNG or .npy; 0 and NaN are unknown."""
    test: str | None = None
    """Other data to test on; None uses the validation images of `data`, or holds out a fifth."""
    depth_scale: float = 0.001
    """Meters that 1 stands for in files of integers: 0.001 for NYU, 0.00390625 (1/256) for KITTI. Floats are meters."""
    max_depth: float | None = None
    """Meters beyond which a pixel is unknown, and the largest prediction: usually 10 for NYU, 80 for KITTI."""
    skip_unlabeled: bool = False
    """Leave out images that have no depth map."""
    accept_labels: bool = False
    """Accept the depth maps as read, even if no real scene has their median."""
    frozen: bool = True
    """Whether the encoder is frozen."""
    levels: Literal["all", "last"] = "all"
    """Maps that the head uses."""
    features: DenseFeatures = "normed"
    """Maps after the encoder's final norm, or raw from its blocks."""
    size: int | None = None
    """Side of the windows in pixels; None uses the encoder's own image size."""
    window: Literal["slide", "pad", "resize"] = "slide"
    """How an image of another size or aspect is cut; as for segment."""
    overlap: float = 1 / 3
    """Share of a sliding window that overlaps with the next one."""
    short_side: int | None = None
    """Short side in pixels to which images are resized for sliding windows; None: `size`, 0: images are not resized."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images that have depth maps. One metric for each."""
    seed: int = 0
    """Random seed for the head, the order, the crops, the choice of labeled images and random weights."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Training; layer-wise learning rates and drop path only apply if the encoder is trained."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        check_fields(self, "depth")
        check_fractions(self.label_fraction)
        if self.depth_scale <= 0:
            raise UserError(f"depth.depth_scale must be above 0, not {self.depth_scale}")
        if self.max_depth is not None and self.max_depth <= NEAREST:
            raise UserError(f"depth.max_depth must be above {NEAREST} meters, not {self.max_depth}")
        check_window_options("depth", size=self.size, overlap=self.overlap)


def check(resolved: ResolvedEncoder, config: DepthConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    train, test = _open(resolved, config)
    _ranges(config, train, test)
    resolved.build(image_size=config.size)
    return pair_identity(train, test)


def _open(resolved: ResolvedEncoder, config: DepthConfig) -> tuple[DepthPairs, DepthPairs]:
    """The training and the test images."""
    value_range = config.value_range or resolved.value_range
    train, test = (
        open_depth(
            spec,
            split=split,
            channels=resolved.config.channels,
            scale=config.depth_scale,
            max_depth=config.max_depth,
            whole=config.test is not None,
            value_range=value_range,
            skip_unlabeled=config.skip_unlabeled,
        )
        for spec, split in ((config.data, "train"), (config.test or config.data, "val"))
    )
    check_labeled_values(train, value_range, option="--value-range")
    return train, test


def _ranges(config: DepthConfig, *parts: DepthPairs) -> list[str]:
    """The ranges of depth, a sentence each; raises UserError if a real scene has none of them."""
    return [check_scale(part, Problems(accept=config.accept_labels)) for part in parts]


def run(resolved: ResolvedEncoder, config: DepthConfig, *, work_dir: Path | None = None) -> Result:
    """Trains a head and returns ``delta1`` to ``delta3``, ``rmse`` and ``abs_rel``; ``delta1@0.1`` for label fractions.

    Args:
        work_dir: folder for checkpoints, from which an interrupted training resumes.

    Raises:
        UserError: a mistake in the data or the config, or a file cannot be read.
        Interrupted: a signal asked to stop.
    """
    train, test = _open(resolved, config)
    with naming_bad_images(train, test, workers=config.runtime.processes):
        notes = list(dict.fromkeys([*notes_on_pair(train, test), *_ranges(config, train, test)]))
    details: dict[str, Any] = {"train_images": len(train), "val_images": len(test), "frozen": config.frozen}
    details |= data_details(train, test, config.test, notes)
    metrics: dict[str, float] = {}
    fitted: FittedDepth | None = None
    fractions = sorted(config.label_fraction, reverse=True)
    for fraction in fractions:
        labeled = label_subset(len(train), fraction, seed=config.seed)
        errors = DepthErrors()
        with naming_bad_images(train, test, workers=config.runtime.processes):
            task = _task(resolved, config, train, test, labeled, work_dir=work_dir)
            model, summary, predictions = train_head(task, on_maps=config.frozen)
            for windows, plan, truth in predictions:
                size = (truth.shape[0], truth.shape[1])
                errors.add(predict_depth(windows, plan, size, max_depth=config.max_depth), truth.to(windows.device))
        details["size"] = task.windows.size
        if fitted is None:  # the largest fraction comes first
            fitted = _fitted(task, config, model)
        metrics |= {with_fraction(name, fraction, fractions): value for name, value in errors.metrics().items()}
        details[with_fraction("fit", fraction, fractions)] = {"fraction": fraction, "images": len(labeled), **summary}
        details["test_pixels"] = errors.count
    return Result(metrics, "delta1", details, fitted=fitted)


def _task(
    resolved: ResolvedEncoder,
    config: DepthConfig,
    train: DepthPairs,
    test: DepthPairs,
    labeled: list[int],
    *,
    work_dir: Path | None,
) -> SegmentationTask:
    """Builds encoder and head, and collects everything that the training needs."""
    drop_path = 0.0 if config.frozen else config.fit.drop_path
    encoder = resolved.build(image_size=config.size, drop_path=drop_path, seed=config.seed)
    side = window_side(encoder)
    levels = list(range(len(encoder.out_indices)))[-1 if config.levels == "last" else 0 :]
    torch.manual_seed(config.seed)  # the same head for every encoder with maps of these widths
    head = LinearHead([encoder.widths[level] for level in levels], 1, frozen=config.frozen)
    torch.nn.init.constant_(head.bias, _mean_log_depth(train, labeled))
    mean, std = ViewsConfig(mean=resolved.mean, std=resolved.std).statistics(encoder.config.channels)
    return SegmentationTask(
        encoder=encoder,
        frozen=config.frozen,
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
        scale=(1.0, 1.0),
        jitter=0.0,
        loss=scale_invariant_loss,
        fit=config.fit,
        seed=config.seed,
        runtime=config.runtime,
        work_dir=work_dir,
        identity=definition("depth", resolved, config) | {"data": [train.fingerprint(), labeled]},
    )


def _fitted(task: SegmentationTask, config: DepthConfig, model: Segmenter) -> FittedDepth:
    """Encoder and head as a model to keep."""
    head = DepthHead(levels=tuple(task.levels), norm=task.norm, half_maps=config.frozen, max_depth=config.max_depth)
    preprocessing = WindowPreprocessing.of(task)
    return FittedDepth(model, classes=(), head=head, preprocessing=preprocessing, batch=config.runtime.batch)


def _mean_log_depth(train: DepthPairs, labeled: list[int]) -> float:
    """Mean logarithm of the depth of the first labeled images that know any; where the head starts."""
    for index in labeled:
        depth = train.load(index)[1]
        if (depth > 0).any():
            return float(np.log(depth[depth > 0]).mean())
    limit = (
        f"; so is everything beyond --max-depth {train.max_depth:g}: raise it, or leave it out"
        if train.max_depth
        else ""
    )
    raise UserError(
        f"--data {train.spec}: none of {len(labeled)} training images has a known depth; 0, negative values and NaN "
        f"are unknown"
        f"{limit}. Add depth maps with known depth, or raise --label-fraction"
    )
