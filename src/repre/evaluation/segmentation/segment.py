"""Semantic segmentation: a linear head on frozen maps, or UPerNet trained end to end. mIoU at the masks' own resolution.

frozen, linear   the maps of all windows are stored once and only the head is trained, without augmentation
otherwise        crops, drawn and resized on the device, go through encoder and head

Every label fraction is trained for the same number of steps: few labels are shown more often, so the curve compares
labels and not the length of training.

    B  windows or crops in a batch    n  windows of an image    S  their side    K  classes    C_l, H_l, W_l  map of level l
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.config import to_dict
from repre.data.labels.crops import Crops, CropSteps, crop_batches, show
from repre.data.labels.masks import IGNORE, MaskSource, open_masks
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import Plan, WindowsConfig, merge
from repre.data.loading.loader import epoch_order
from repre.data.views.render import ViewsConfig
from repre.errors import UserError
from repre.evaluation.fit import FitConfig, fit
from repre.evaluation.maps import Maps, cached_maps, to_input, window_batches
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.evaluation.segmentation.miou import Confusion, Scores
from repre.evaluation.segmentation.overlay import save_overlay
from repre.evaluation.segmentation.segmentation_heads import LinearHead, UPerNet, resize
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Semantic segmentation of any data with masks."""

    data: str = "scenes"
    """Images with masks: scenes, scenes:COUNT:SIZE, ade20k:DIR, voc:DIR or pairs:IMAGES,MASKS."""
    test: str | None = None
    """Other data to test on, of the same classes; None takes the validation images of `data`, or holds a fifth out."""
    head: Literal["linear", "upernet"] = "linear"
    """Batch normalization and a 1x1 convolution, or UPerNet."""
    frozen: bool | None = None
    """Whether the encoder stays as it is; None: below a linear head it does, below UPerNet it is trained."""
    levels: Literal["all", "last"] = "all"
    """Which maps the linear head sees; UPerNet takes all."""
    width: int = 256
    """Channels of UPerNet's maps; published figures mostly have 512."""
    size: int | None = None
    """Side of the windows and crops in pixels; None: the size that the encoder was built for."""
    window: Literal["slide", "pad", "resize"] = "slide"
    """How an image of another size or aspect is seen: overlapping windows over the image with its short side resized to
    `size`; one padded window of its long side; or all of it squeezed into one."""
    overlap: float = 1 / 3
    """Share of a sliding window that the next one covers again."""
    short_side: int | None = None
    """Pixels of an image's short side under sliding windows; None: `size`, 0: images keep their resolution."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the files' type."""
    class_weights: bool = False
    """Weigh classes in the loss by the median frequency (Eigen and Fergus 2015, arXiv 1411.4734)."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Shares of the training images to train on, each a part of the larger ones."""
    scale: tuple[float, float] = (0.5, 2.0)
    """From what to what a training image is enlarged before a crop is cut from it; does not count on stored maps."""
    jitter: float = 0.0
    """Probability of a color jitter of a training crop."""
    save_predictions: int = 0
    """How many validation images are drawn with truth and prediction."""
    seed: int = 0
    """Of the head, the order, the crops, the choice of labeled images, and of an encoder at random."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How it is trained; the layer-wise rates and drop path only count where the encoder is."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        check_fields(self, "segment")
        if self.width < 1 or (self.size is not None and self.size < 8):
            raise UserError(f"segment: width {self.width} must be at least 1, size {self.size} at least 8 pixels")
        if not 0 <= self.overlap < 1:
            raise UserError(f"segment.overlap={self.overlap}: give a share from 0 to below 1")
        if self.short_side is not None and self.short_side < 0:
            raise UserError(f"segment.short_side={self.short_side}: give pixels, or 0 to keep images as they are")
        if not self.label_fraction or not all(0 < share <= 1 for share in self.label_fraction):
            raise UserError(f"segment.label_fraction={self.label_fraction}: give shares above 0, at most 1")
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise UserError(f"segment.scale={self.scale}: give the smallest and the largest, from 0.1 to 10")
        if not 0 <= self.jitter <= 1:
            raise UserError(f"segment.jitter={self.jitter}: give a probability from 0 to 1")
        if self.save_predictions < 0:
            raise UserError(f"segment.save_predictions={self.save_predictions}: give 0 or more")
        if self.head == "upernet" and self.fit.batch_size < 2:
            raise UserError("fit.batch_size: UPerNet normalizes over the batch and needs at least 2 images in it")

    @property
    def is_frozen(self) -> bool:
        return self.head == "linear" if self.frozen is None else self.frozen

    @property
    def from_maps(self) -> bool:
        """Whether the head is trained on stored maps."""
        return self.head == "linear" and self.is_frozen


def run(start: ResolvedEncoder, config: SegmentConfig, *, work: Path | None = None) -> Result:
    """Trains a head on `start` and scores it: `miou` and `pixel_accuracy` of the largest label fraction, `miou@0.1` and
    so on of the others; IoU by class in the details.

    Args:
        work: folder for checkpoints, with which an interrupted call goes on, and for drawn predictions.

    Raises:
        UserError: data or settings that do not serve.
    """
    if config.save_predictions and work is None:
        raise UserError("save_predictions needs a folder to work in")
    channels = start.config.channels
    value_range = config.value_range or start.value_range
    train, val = open_train_and_test(config.data, config.test, channels=channels, value_range=value_range)
    statistics = ViewsConfig(mean=start.mean, std=start.std).statistics(channels)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"train_images": len(train), "val_images": len(val), "frozen": config.is_frozen}
    details["test_set"] = config.test or "val"
    fractions = sorted(set(config.label_fraction), reverse=True)
    for fraction in fractions:
        largest = fraction == fractions[0]
        chosen = label_subset(len(train), fraction, seed=config.seed)
        task = _Task(start, config, train, val, chosen, statistics, work=work)
        scores, fitted = task.run(pictures=config.save_predictions if largest else 0)
        suffix = "" if largest else f"@{fraction:g}"
        metrics |= {f"miou{suffix}": scores.miou, f"pixel_accuracy{suffix}": scores.pixel_accuracy}
        details[f"iou{suffix}"] = dict(zip(train.classes, scores.iou))
        details[f"fit{suffix}"] = {"fraction": fraction, "images": len(chosen), **fitted}
    return Result(metrics, "miou", details)


def open_train_and_test(
    data: str, test: str | None, *, channels: int, value_range: tuple[float, float] | None = None
) -> tuple[MaskSource, MaskSource]:
    """Images to train on and images to test on, of the same classes."""
    train, val = (
        open_masks(spec, split=split, channels=channels, whole=test is not None, value_range=value_range)
        for spec, split in ((data, "train"), (test or data, "val"))
    )
    if val.classes != train.classes[: len(val.classes)]:
        raise UserError(f"--test {test}: its classes are {val.classes[:5]}, those of {data} {train.classes[:5]}")
    val.classes = train.classes  # the labels of unnamed classes are counted, and the test images may lack the last ones
    return train, val


class _Task:
    """One head on one label fraction."""

    def __init__(
        self,
        start: ResolvedEncoder,
        config: SegmentConfig,
        train: MaskSource,
        val: MaskSource,
        chosen: list[int],
        statistics: tuple[Tensor, Tensor],
        *,
        work: Path | None,
    ) -> None:
        self.config, self.train, self.val, self.chosen, self.work = config, train, val, chosen, work
        self.mean, self.std = statistics
        self.device = config.runtime.torch_device
        drop_path = 0.0 if config.is_frozen else config.fit.drop_path
        self.encoder = start.build(image_size=config.size, drop_path=drop_path, seed=config.seed)
        height, width = self.encoder.image_size
        if height != width:
            raise UserError(
                f"the encoder was built for {height} x {width} pixels; give the side of square windows: --size"
            )
        self.size = height
        self.windows = WindowsConfig(
            size=self.size, mode=config.window, overlap=config.overlap, short_side=config.short_side
        )
        self.levels = list(range(len(self.encoder.out_indices)))
        if config.head == "linear" and config.levels == "last":
            self.levels = self.levels[-1:]
        torch.manual_seed(config.seed)  # the head is the same for every encoder of these widths
        self.head = self._head()
        told = {key: value for key, value in to_dict(config).items() if key not in NO_PART_OF_A_FIT}
        encoder = to_dict(start.config) | {"weights": start.fingerprint}
        data = [train.fingerprint(), chosen]
        self.identity = {"evaluation": "segment", "config": told, "encoder": encoder, "data": data}

    def run(self, *, pictures: int) -> tuple[Scores, dict[str, float]]:
        weights = class_weights(self.train, self.chosen).to(self.device) if self.config.class_weights else None
        if self.config.from_maps:
            model: nn.Module = self.head.to(self.device)
            fitted = self._fit_on_maps(self._maps(self.train), weights)
            logits = self._logits_of_maps(self._maps(self.val))
        else:
            model = Segmenter(self.encoder, self.head, self.levels, frozen=self.config.is_frozen).to(self.device)
            fitted = self._fit_on_crops(model, weights)
            logits = self._logits_of_images(model)
        model.eval()
        return self._score(logits, pictures), fitted

    def _head(self) -> nn.Module:
        widths, strides = ([values[i] for i in self.levels] for values in (self.encoder.widths, self.encoder.strides))
        classes = len(self.train.classes)
        if self.config.head == "linear":
            return LinearHead(widths, classes, frozen=self.config.is_frozen)
        return UPerNet(widths, strides, classes, width=self.config.width)

    # ------------------------------------------------------------------------------------------- from stored maps

    def _maps(self, source: MaskSource) -> Maps:
        return cached_maps(
            self.encoder,
            source,
            self.windows,
            mean=self.mean,
            std=self.std,
            levels=self.levels,
            runtime=self.config.runtime,
        )

    def _fit_on_maps(self, maps: Maps, weights: Tensor | None) -> dict[str, float]:
        batch, places = self.config.fit.batch_size, maps.windows(self.chosen)
        steps_per_epoch = max(1, len(maps.masks) // batch)

        def batches(first: int) -> Iterator[tuple[list[Tensor], Tensor]]:
            for step in range(first, self.config.fit.epochs * steps_per_epoch):
                epoch, place = divmod(step, steps_per_epoch)
                order = epoch_order(len(places), seed=self.config.seed, epoch=epoch)
                shown = places[order[np.arange(place * batch, (place + 1) * batch) % len(order)]]
                yield maps.read(shown, self.device), torch.from_numpy(maps.masks[shown]).to(self.device).long()

        def loss(batch: tuple[list[Tensor], Tensor]) -> Tensor:
            levels, masks = batch
            return segmentation_loss(resize(self.head(levels).float(), masks.shape[-2:]), masks, weights)

        return self._fit(self.head, batches, loss, steps_per_epoch, encoder=None)

    @torch.no_grad()
    def _logits_of_maps(self, maps: Maps) -> Iterator[tuple[Plan, Tensor, Tensor]]:
        for image, plan in enumerate(maps.plans):
            levels = maps.read(maps.windows([image]), self.device)
            with autocast(self.device, self.config.runtime.dtype):
                logits = self.head(levels).float()
            truth = torch.from_numpy(self.val.load(image)[1])
            yield plan, truth, resize(logits, (self.size, self.size))

    # ------------------------------------------------------------------------------------------------ from images

    def _fit_on_crops(self, model: "Segmenter", weights: Tensor | None) -> dict[str, float]:
        config = self.config
        steps_per_epoch = max(1, len(self.train) // config.fit.batch_size)
        crops = CropSteps(
            self.train,
            self.chosen,
            self.windows,
            scale=config.scale,
            batch_size=config.fit.batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=config.seed,
            mean=self.mean,
        )

        def batches(first: int) -> Iterator[Crops]:
            on_cuda = self.device.type == "cuda"
            total = config.fit.epochs * steps_per_epoch
            return crop_batches(crops, start=first, total=total, workers=config.runtime.processes, pin=on_cuda)

        def loss(batch: Crops) -> Tensor:
            with autocast(self.device, torch.float32):
                images, masks = show(
                    batch,
                    size=self.size,
                    seed=config.seed,
                    jitter=config.jitter,
                    mean=self.mean,
                    std=self.std,
                    device=self.device,
                )
            return segmentation_loss(model(images).float(), masks, weights)

        encoder = None if config.is_frozen else self.encoder
        return self._fit(model, batches, loss, steps_per_epoch, encoder=encoder)

    @torch.no_grad()
    def _logits_of_images(self, model: "Segmenter") -> Iterator[tuple[Plan, Tensor, Tensor]]:
        runtime = self.config.runtime
        for batch in window_batches(self.val, self.windows, mean=self.mean, runtime=runtime, words="score"):
            pixels = torch.cat([to_input(w.pixels, mean=self.mean, std=self.std, device=self.device) for w in batch])
            with autocast(self.device, self.config.runtime.dtype):
                logits = [model(part).float() for part in pixels.split(runtime.batch)]
            pieces = torch.cat(logits).split([len(w.pixels) for w in batch])
            for windows, piece in zip(batch, pieces):
                yield windows.plan, windows.truth, piece

    # ------------------------------------------------------------------------------------------------------ both

    def _fit(self, model: nn.Module, batches: Any, loss: Any, steps_per_epoch: int, *, encoder: Encoder | None) -> Any:
        return fit(
            model,
            batches=batches,
            loss=loss,
            steps=self.config.fit.epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            config=self.config.fit,
            device=self.device,
            precision=self.config.runtime.dtype,
            seed=self.config.seed,
            encoder=encoder,
            work=self.work,
            identity=self.identity,
        )

    def _score(self, logits: Iterator[tuple[Plan, Tensor, Tensor]], pictures: int) -> Scores:
        confusion = Confusion(len(self.train.classes))
        drawn = set(np.linspace(0, len(self.val) - 1, min(pictures, len(self.val))).round().astype(int).tolist())
        for index, (plan, truth, windows) in enumerate(logits):
            predicted = predict(windows, plan, (truth.shape[0], truth.shape[1]))
            confusion.add(truth.to(predicted.device), predicted)
            if index in drawn:
                assert self.work is not None
                stem = Path(self.val.describe(index)).stem.replace(":", "-")
                path = self.work / "predictions" / f"{index:05d}-{stem}.png"
                image = self.val.load(index)[0]
                save_overlay(path, image, truth.numpy(), predicted.cpu().numpy(), self.train.classes)
        return confusion.scores()


NO_PART_OF_A_FIT = ("runtime", "save_predictions", "label_fraction")
"""Fields of the config that change nothing in the training on one label fraction."""


class Segmenter(nn.Module):
    """Encoder and head: images [B, C, S, S] -> logits [B, K, S, S]. A frozen encoder stays in evaluation mode."""

    def __init__(self, encoder: Encoder, head: nn.Module, levels: list[int], *, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.levels, self.frozen = encoder, head, levels, frozen
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder(images).maps
        return resize(self.head([maps[level] for level in self.levels]).float(), images.shape[-2:])

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def predict(windows: Tensor, plan: Plan, size: tuple[int, int]) -> Tensor:
    """Class of every pixel of an image of `size`, int64 [H, W]: the logits of its windows [n, K, S, S] are averaged
    where these overlap and resized to the image."""
    return resize(merge(windows, plan)[None], size)[0].argmax(0)


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, the (weighted) mean over the pixels that are not ignored; 0 where all are.

    Args:
        logits: [B, K, H, W]; masks: int64 [B, H, W]; weights: of the classes, [K].
    """
    total = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE, reduction="sum")
    known = masks[masks != IGNORE]
    weight = known.numel() if weights is None else weights[known].sum()
    return total / max(weight, 1) if isinstance(weight, int) else total / weight.clamp_min(1e-6)


def class_weights(source: MaskSource, chosen: list[int]) -> Tensor:
    """Median-frequency weights [K]: the median class weighs 1, a rarer one more; 1 for classes that do not occur.

    The frequency of a class is its share of the pixels of the images that show it.
    """
    classes = len(source.classes)
    pixels, seen = np.zeros(classes), np.zeros(classes)
    for index in chosen:
        mask = source.load(index)[1]
        counts = np.bincount(mask[mask != IGNORE], minlength=classes)[:classes]
        pixels += counts
        seen += (counts > 0) * counts.sum()
    occurs = pixels > 0
    if not occurs.any():
        raise UserError(f"the labeled images of {source.spec} hold nothing but ignored pixels")
    frequency = np.where(occurs, pixels / np.maximum(seen, 1), math.nan)
    return torch.from_numpy(np.where(occurs, np.nanmedian(frequency) / np.where(occurs, frequency, 1), 1)).float()
