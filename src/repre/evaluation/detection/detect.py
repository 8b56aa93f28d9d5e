"""Object detection and instance segmentation: Mask R-CNN on any encoder, scored as COCO does.

n  objects of an image    H, W  height and width
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repre.data.io.value_ranges import check_labeled_values
from repre.data.labels.boxes import BoxSource, Objects, open_boxes
from repre.data.labels.same_images import notes_on_pair
from repre.data.labels.splits import label_subset
from repre.data.loading.workers import in_workers
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.detection.coco_ap import Evaluator
from repre.evaluation.detection.detection_data import Detections, IndexedImages, TrainBatches, to_images, to_targets
from repre.evaluation.detection.draw_detections import save_detections
from repre.evaluation.detection.mask_rcnn import DetectImages, Detector
from repre.evaluation.fit import FitConfig, fit
from repre.evaluation.fitted.fitted_detector import DetectHead, DetectPreprocessing, FittedDetector, detector
from repre.evaluation.metrics import check_fractions, with_fraction
from repre.evaluation.options import DenseFeatures, RuntimeOptions
from repre.evaluation.result import Result, data_details, definition, pair_identity
from repre.models.resolve import ResolvedEncoder
from repre.utils.config_checks import check_fields
from repre.utils.progress import track

MAX_SIZE = 800
"""Largest short side in pixels by default, as published."""
ASPECT = 1333 / 800
"""Long side over short side by default, as published."""


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Detection and instance segmentation."""

    data: str = "scenes"
    """Images with objects: scenes, scenes:COUNT:SIZE, coco:DIR, coco:IMAGES,ANNOTATIONS.json, yolo:DIR,
    yolo:IMAGES,LABELS or voc:DIR."""
    test: str | None = None
    """Other data to test on; None uses the test images of `data`, or holds out a fifth."""
    skip_unlabeled: bool = False
    """Leave out images without labels, instead of using them as images without objects."""
    frozen: bool = False
    """Whether the encoder is frozen and only pyramid and heads are trained."""
    features: DenseFeatures = "normed"
    """Maps after the encoder's final norm, or raw from its blocks."""
    masks: bool | None = None
    """Whether instance masks are predicted as well as boxes; None: if the objects of `data` have outlines."""
    size: int | None = None
    """Short side of the images in pixels; None: that of the first training image, at most 800."""
    long_side: int | None = None
    """Largest long side in pixels; None: 1333 / 800 of `size`."""
    value_range: tuple[float, float] | None = None
    """Pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type."""
    sizes: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor of the short side in training, drawn for every image; (0.8, 1.25) is usual."""
    attention: Literal["global", "windowed"] = "global"
    """Whether all blocks of a plain transformer attend to the whole image, or most of them within windows (ViTDet)."""
    window: int = 14
    """Side of these windows in patches."""
    width: int | None = None
    """Channels of the pyramid; None: 256, or 128 for small images."""
    anchor: float | None = None
    """Side of a map's anchors over its stride; None: 8, or less for small images, so that the smallest anchor is an
    eighth of the image."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Fractions of the training images that have labels; smaller subsets are part of larger ones. One training, of
    equally many steps, and one metric for each."""
    save_predictions: int = 0
    """Number of test images to draw with truth and prediction."""
    score_threshold: float = 0.5
    """Lowest score of the predictions that are drawn; the metrics count all."""
    seed: int = 0
    """Random seed for heads, order, flips, proposals, the choice of labeled images and random weights."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch_size=8, lr=1e-3))
    """Training."""
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(batch=8))
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        check_fields(self, "detect")
        check_fractions(self.label_fraction)
        if self.size is not None and self.size < 16:
            raise UserError(f"detect.size must be at least 16 pixels, not {self.size}")
        if not 0 < self.sizes[0] <= self.sizes[1]:
            raise UserError(f"detect.sizes must be (smallest, largest) factors above 0, not {self.sizes}")
        if self.width is not None and self.width < 8:
            raise UserError(f"detect.width must be at least 8 channels, not {self.width}")
        if self.anchor is not None and self.anchor <= 0:
            raise UserError(f"detect.anchor must be above 0, not {self.anchor}")
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"detect.score_threshold must lie in [0, 1], not {self.score_threshold}")


def check(resolved: ResolvedEncoder, config: DetectConfig) -> str:
    """Opens data and encoder, evaluates nothing, and returns the identity of the data; raises UserError as `run` does."""
    train, test, config, _ = _open(resolved, config)
    build_detector(resolved, config, train)
    return pair_identity(train, test)


def _open(resolved: ResolvedEncoder, config: DetectConfig) -> tuple[BoxSource, BoxSource, DetectConfig, list[str]]:
    """The training and the test images, the config with a decision on masks, and what a user should know of the data."""
    if resolved.config.channels != 3:
        raise UserError(
            f"detection needs images of three channels, but {resolved.spec} takes {resolved.config.channels}"
        )
    value_range = config.value_range or resolved.value_range
    train, test = (
        open_boxes(
            spec,
            split=split,
            whole=config.test is not None,
            value_range=value_range,
            skip_unlabeled=config.skip_unlabeled,
        )
        for spec, split in ((config.data, "train"), (config.test or config.data, "val"))
    )
    if test.classes != train.classes[: len(test.classes)]:
        raise UserError(
            f"the classes of --test {config.test} ({test.classes[:5]}) differ from those of --data {config.data} "
            f"({train.classes[:5]}); give both the same categories"
        )
    check_labeled_values(train, value_range, option="--value-range")
    test.classes = train.classes  # classes without names are counted, and test images may lack the last ones
    return train, test, *_with_masks(config, train, test)


def run(resolved: ResolvedEncoder, config: DetectConfig, *, work_dir: Path | None = None) -> Result:
    """Trains Mask R-CNN and returns COCO's AP: ``box_ap``, ``mask_ap`` and so on; ``box_ap@0.1`` for label fractions.

    Args:
        work_dir: folder for checkpoints, from which an interrupted training resumes, and for drawn predictions.

    Raises:
        UserError: a mistake in the data or the config, or an image cannot be read.
        Interrupted: a signal asked to stop.
    """
    if config.save_predictions and work_dir is None:
        raise UserError("save_predictions needs work_dir, the folder to save to")
    train, test, config, notes = _open(resolved, config)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"train_images": len(train), "test_images": len(test), "classes": train.classes}
    details |= data_details(train, test, config.test, notes)
    for fraction in sorted(config.label_fraction):
        labeled = label_subset(len(train), fraction, seed=config.seed)
        absent = _classes_without_boxes(train, labeled)
        fitted = build_detector(resolved, config, train).to(config.runtime.torch_device)
        model = fitted.network
        identity = definition("detect", resolved, config) | {"data": [train.fingerprint(), labeled]}
        largest = fraction == max(config.label_fraction)
        with naming_bad_images(train, test, workers=config.runtime.processes):
            summary = _train(model, train, labeled, config, work_dir=work_dir, identity=identity)
            fraction_metrics, by_class = _test(model, test, config, work_dir=work_dir if largest else None)
        for name, value in fraction_metrics.items():
            metrics[with_fraction(name, fraction, config.label_fraction)] = value
        details[with_fraction("fit", fraction, config.label_fraction)] = summary | {"images": len(labeled)}
        details[with_fraction("classes_without_a_box", fraction, config.label_fraction)] = absent
        if largest:
            details |= by_class
    return Result(metrics, main="box_ap", details=details, fitted=fitted)


def _with_masks(config: DetectConfig, train: BoxSource, test: BoxSource) -> tuple[DetectConfig, list[str]]:
    """The config with a decision on masks, and what a user should know of the data."""
    has_masks = train.has_masks and test.has_masks
    notes = notes_on_pair(train, test)
    if config.masks and not has_masks:
        raise UserError(
            f"masks True needs outlines, but the objects of {config.data} have boxes only; leave --masks out"
        )
    if config.masks is None and not has_masks:
        notes.append("the objects have boxes only, so no masks are predicted or scored")
    return replace(config, masks=has_masks if config.masks is None else config.masks), notes


def build_detector(resolved: ResolvedEncoder, config: DetectConfig, data: BoxSource) -> FittedDetector:
    """Builds the detector of an encoder for the classes and the image size of some data; its heads depend on the seed."""
    size = config.size or min(MAX_SIZE, min(data.size(0)))
    drop_path = 0.0 if config.frozen else config.fit.drop_path
    encoder = resolved.build(image_size=_divisible(size, resolved), drop_path=drop_path, seed=config.seed)
    torch.manual_seed(config.seed)
    mean, std = (
        values.flatten().tolist() for values in ViewsConfig(mean=resolved.mean, std=resolved.std).statistics(3)
    )
    head = DetectHead(
        attention=config.attention,
        window=config.window,
        width=config.width,
        anchor=config.anchor,
        masks=data.has_masks if config.masks is None else config.masks,
        norm=config.features == "normed",
    )
    preprocessing = DetectPreprocessing(
        size=size,
        long_side=config.long_side or math.ceil(size * ASPECT),
        mean=tuple(mean),
        std=tuple(std),
        value_range=config.value_range or resolved.value_range,
    )
    network = detector(
        encoder,
        classes=len(data.classes),
        head=head,
        preprocessing=preprocessing,
        scales=config.sizes,
        frozen=config.frozen,
    )
    return FittedDetector(
        network, classes=data.classes, head=head, preprocessing=preprocessing, batch=config.runtime.batch
    )


def _divisible(size: int, resolved: ResolvedEncoder) -> int:
    """The smallest side of at least `size` that the stride of the coarsest map of the pyramid divides."""
    strides = replace(resolved, config=replace(resolved.config, weights=None)).build().strides
    coarsest = 2 * strides[-1] if len(set(strides)) == 1 else max(strides)
    return -(-size // coarsest) * coarsest


def _classes_without_boxes(source: BoxSource, images: list[int]) -> list[str]:
    """Classes without a box in some images; raises UserError if that is every class."""
    labels = {row["category_id"] for index in images for row in source.truth(index) if not row["iscrowd"]}
    if not labels:
        raise UserError(f"--data {source.spec}: none of the {len(images)} training images has an object to learn from")
    return [name for label, name in enumerate(source.classes, start=1) if label not in labels]


def _train(
    model: Detector,
    source: BoxSource,
    labeled: list[int],
    config: DetectConfig,
    *,
    work_dir: Path | None,
    identity: dict[str, Any],
) -> dict[str, float]:
    """Trains the detector, sets evaluation mode, and returns the summary of `fit`."""
    device, batch_size = config.runtime.torch_device, config.fit.batch_size
    steps_per_epoch = max(1, len(source) // batch_size)  # of all training images, whatever the label fraction
    steps = config.fit.passes * steps_per_epoch
    data = TrainBatches(source, labeled, batch_size=batch_size, steps_per_epoch=steps_per_epoch, seed=config.seed)

    def batches(start: int) -> Iterator[list[Objects]]:
        return in_workers(data, range(start, steps), workers=config.runtime.processes)

    def loss(batch: list[Objects]) -> Tensor:
        return model(to_images([objects.image for objects in batch], device), to_targets(batch, device))

    return fit(
        model,
        batches=batches,
        loss=loss,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        config=config.fit,
        device=device,
        precision=config.runtime.dtype,
        seed=config.seed,
        encoder=None if config.frozen else model.encoder,
        work_dir=work_dir,
        identity=identity,
    )


@torch.no_grad()
def _test(
    model: Detector, source: BoxSource, config: DetectConfig, *, work_dir: Path | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics, and AP by class for the details. Draws the first predictions into `work_dir`."""
    evaluator = Evaluator(source.classes)
    for index, truth, detections in _detect(model, source, config):
        evaluator.add(size=source.size(index), truth=source.truth(index), detections=detections)
        if work_dir is not None and index < config.save_predictions:
            path = work_dir / "predictions" / f"{index:04d}.png"
            save_detections(path, truth, detections.above(config.score_threshold), classes=source.classes)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    iou_types: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"} if config.masks else {"box": "bbox"}
    for name, iou_type in iou_types.items():
        scores, details[f"{name}_ap_by_class"] = evaluator.scores(iou_type)
        metrics |= {f"{name}_{metric}": value for metric, value in scores.items()}
    return metrics, details


def _detect(model: Detector, source: BoxSource, config: DetectConfig) -> Iterator[tuple[int, Objects, Detections]]:
    """Yields index, true objects and detections of every image in order."""
    runtime = config.runtime
    images = in_workers(IndexedImages(source), range(len(source)), workers=runtime.processes)
    batch: list[tuple[int, Objects]] = []
    detections = DetectImages(model, masks=bool(config.masks), runtime=runtime)
    for index, truth in track(images, "detect", total=len(source)):
        batch.append((index, truth))
        if len(batch) < runtime.batch and index < len(source) - 1:
            continue
        for (number, objects), image in zip(batch, detections([objects.image for _, objects in batch])):
            yield number, objects, image
        batch = []
