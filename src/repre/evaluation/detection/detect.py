"""Boxes and instance masks: Mask R-CNN (He et al. 2017, arXiv 1703.06870) on any encoder, scored as COCO does.

torchvision's region proposals and heads stand on the pyramid of `pyramid.py`. Small images get small heads and few
proposals, so that a CPU trains them in minutes; from 256 pixels on the sizes are the published ones.

    B  images    n  objects of an image    H, W  height and width    S  short side of the images
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from tqdm import tqdm

from repre.config import to_dict
from repre.data.labels.boxes import BoxSource, Objects, open_boxes
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import in_workers
from repre.data.loading.loader import epoch_order
from repre.data.views.params import uniforms
from repre.data.views.render import ViewsConfig
from repre.errors import UserError
from repre.evaluation.detection.coco_ap import Evaluator
from repre.evaluation.detection.draw_detections import save_objects
from repre.evaluation.detection.pyramid import Backbone
from repre.evaluation.detection.window_attention import use_windows
from repre.evaluation.fit import FitConfig, fit
from repre.evaluation.metrics import check_fractions, with_share
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.result import Result
from repre.models.resolve import ResolvedEncoder
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields

SMALL = 256
"""Short side in pixels below which heads and proposals are small."""
DETECTIONS = 100
"""Detections per image that are scored, as COCO counts them."""
FLIP_STREAM = 2


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Detection and instance segmentation."""

    data: str = "scenes"
    """Images with objects: scenes, scenes:COUNT:SIZE, coco:IMAGES,ANNOTATIONS.json or coco:DIR."""
    test: str | None = None
    """Other data to test on; None takes the test images of `data`, or holds a fifth of it out."""
    frozen: bool = False
    """Whether the encoder stays as it is and only pyramid and heads are trained."""
    masks: bool = True
    """Whether instance masks are predicted beside boxes."""
    size: int | None = None
    """Short side of the images in pixels; None keeps that of the first training image, at most 800."""
    long_side: int | None = None
    """Longest side in pixels; None: 1333 / 800 of `size`."""
    value_range: tuple[float, float] | None = None
    """Pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the files' type."""
    sizes: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor of the short side in training, drawn for every image; (0.8, 1.25) is usual."""
    attention: Literal["global", "windowed"] = "global"
    """Whether every block of a plain transformer sees the whole image, or most see windows (ViTDet)."""
    window: int = 14
    """Side of these windows in patches."""
    width: int | None = None
    """Channels of the pyramid; None: 256, for small images 128."""
    anchor: float | None = None
    """Side of a map's anchors over its stride; None: 8, for small images so that the smallest is an eighth of them."""
    label_fraction: tuple[float, ...] = (1.0,)
    """Shares of the training images to train on, each a part of the larger ones, for as many steps."""
    save_predictions: int = 0
    """How many test images are drawn with truth and prediction."""
    score_threshold: float = 0.5
    """Least score of the predictions that are drawn; all count in the figures."""
    seed: int = 0
    """Of heads, order, flips, proposals, the choice of labeled images, and of an encoder at random."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=12, batch_size=8, lr=1e-3))
    """How it is trained."""
    runtime: RuntimeOptions = field(default_factory=lambda: RuntimeOptions(batch=8))
    """Device, workers, cache."""

    def __post_init__(self) -> None:
        check_fields(self, "detect")
        check_fractions(self.label_fraction)
        if self.size is not None and self.size < 16:
            raise UserError(f"detect.size={self.size}: give at least 16 pixels")
        if not 0 < self.sizes[0] <= self.sizes[1]:
            raise UserError(f"detect.sizes={self.sizes}: give factors, the smaller first")
        if self.width is not None and self.width < 8:
            raise UserError(f"detect.width={self.width}: give at least 8 channels")
        if self.anchor is not None and self.anchor <= 0:
            raise UserError(f"detect.anchor={self.anchor}: give a factor above 0")
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"detect.score_threshold={self.score_threshold}: give a share")
        if self.save_predictions < 0:
            raise UserError(f"detect.save_predictions={self.save_predictions}: give 0 or more")


def run(start: ResolvedEncoder, config: DetectConfig, *, work: Path | None = None) -> Result:
    """Trains Mask R-CNN on `start` and scores it: `box_ap` and its kin, `mask_ap` and its kin, of the largest label
    fraction, `box_ap@0.1` and so on of the others; AP by class in the details.

    Raises:
        UserError: data or settings that do not serve.
    """
    value_range = config.value_range or start.value_range
    train, test = (
        open_boxes(spec, split=split, whole=config.test is not None, value_range=value_range)
        for spec, split in ((config.data, "train"), (config.test or config.data, "val"))
    )
    if test.classes != train.classes:
        raise UserError(
            f"--test {config.test}: its classes are {test.classes[:5]}, those of {config.data} {train.classes[:5]}"
        )
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {"train_images": len(train), "test_images": len(test), "classes": train.classes}
    details["test_set"] = config.test or ("held out" if "," in config.data else "val")
    for share in sorted(config.label_fraction):
        chosen = label_subset(len(train), share, seed=config.seed)
        absent = _absent(train, chosen)
        model = build(start, config, train).to(config.runtime.torch_device)
        summary = _train(model, train, chosen, start, config, work=work, share=share)
        largest = share == max(config.label_fraction)
        figures, by_class = _test(model, test, config, work=work if largest else None)
        metrics |= {with_share(name, share, config.label_fraction): value for name, value in figures.items()}
        details[with_share("fit", share, config.label_fraction)] = summary | {"images": len(chosen)}
        details[with_share("classes_without_a_box", share, config.label_fraction)] = absent
        if largest:
            details |= by_class
    return Result(metrics, main="box_ap", details=details)


# ------------------------------------------------------------------------------------------------------- the model


class Detector(nn.Module):
    """Mask R-CNN whose heads compute in float32 whatever the encoder's precision."""

    def __init__(self, network: MaskRCNN, *, masks: bool) -> None:
        super().__init__()
        self.network, self.masks = network, masks
        if not masks:
            network.roi_heads.mask_roi_pool = network.roi_heads.mask_head = network.roi_heads.mask_predictor = None

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """In training the loss of images [3, H, W] in [0, 1]; else detections in the pixels of the images: dictionaries of
        boxes [n, 4], labels [n], scores [n] and masks [n, 1, H, W]."""
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, targets = self.network.transform(images, targets)
        maps = self.network.backbone(batch.tensors)
        with autocast(batch.tensors.device, torch.float32):
            proposals, proposal_losses = self.network.rpn(batch, maps, targets)
            found, losses = self.network.roi_heads(maps, proposals, batch.image_sizes, targets)
        if self.training:
            return torch.stack([*proposal_losses.values(), *losses.values()]).sum()
        return self.network.transform.postprocess(found, batch.image_sizes, sizes)


def build(start: ResolvedEncoder, config: DetectConfig, data: BoxSource) -> Detector:
    """The detector of an encoder for the classes and the size of some data; heads are drawn from the seed alone."""
    size = config.size or min(800, min(data.size(0)))
    small = size < SMALL
    long_side = config.long_side or math.ceil(size * 1333 / 800)
    encoder = start.build(
        image_size=_multiple(size, start), drop_path=0.0 if config.frozen else config.fit.drop_path, seed=config.seed
    )
    if encoder.config.channels != 3:
        raise UserError("detection takes images of three channels")
    if config.attention == "windowed":
        use_windows(encoder, window=config.window)
    torch.manual_seed(config.seed)
    width = config.width or (128 if small else 256)
    backbone = Backbone(encoder, width=width, frozen=config.frozen)
    anchor = config.anchor or min(8.0, size / (8 * backbone.strides[0]))
    levels = [str(place) for place in range(len(backbone.strides))]
    hidden, depth = (256, 2) if small else (1024, 4)
    classes = len(data.classes) + 1
    views = ViewsConfig(mean=start.mean, std=start.std)
    mean, std = (values.flatten().tolist() for values in views.statistics(3))
    network = MaskRCNN(
        backbone,
        min_size=_short_sides(size, config.sizes),
        max_size=long_side,
        image_mean=mean,
        image_std=std,
        size_divisible=max(backbone.strides),
        rpn_anchor_generator=AnchorGenerator(
            tuple((round(anchor * stride),) for stride in backbone.strides), ((0.5, 1.0, 2.0),) * len(levels)
        ),
        rpn_pre_nms_top_n_train=400 if small else 2000,
        rpn_pre_nms_top_n_test=400 if small else 1000,
        rpn_post_nms_top_n_train=200 if small else 2000,
        rpn_post_nms_top_n_test=200 if small else 1000,
        rpn_batch_size_per_image=64 if small else 256,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(width * 7**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes),
        box_batch_size_per_image=64 if small else 512,
        box_detections_per_img=DETECTIONS,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, (width,) * depth, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
    )
    return Detector(network, masks=config.masks)


def _multiple(size: int, start: ResolvedEncoder) -> int:
    """The smallest side of at least `size` that the encoder's coarsest map divides."""
    strides = replace(start, config=replace(start.config, weights=None)).build().strides
    coarsest = 2 * strides[-1] if len(set(strides)) == 1 else max(strides)
    return -(-size // coarsest) * coarsest


def _short_sides(size: int, factors: tuple[float, float]) -> tuple[int, ...]:
    """What the short side may be in training, one drawn for every image; testing takes the last."""
    steps = {round(size * factor) for factor in np.linspace(*factors, 8)} - {size}
    return (*sorted(steps), size)


# ---------------------------------------------------------------------------------------------------- training


class Steps(Dataset[list[Objects] | UserError]):
    """Item t is the batch of step t, a function of t and the seed."""

    def __init__(self, source: BoxSource, chosen: list[int], *, batch: int, steps_per_epoch: int, seed: int) -> None:
        self.source, self.chosen, self.batch = source, chosen, batch
        self.steps_per_epoch, self.seed = steps_per_epoch, seed

    def __getitem__(self, step: int) -> list[Objects] | UserError:
        epoch, place = divmod(step, self.steps_per_epoch)
        positions = torch.arange(place * self.batch, (place + 1) * self.batch)
        order = epoch_order(len(self.chosen), seed=self.seed, epoch=epoch)
        drawn = uniforms(seed=self.seed, epoch=epoch, stream=FLIP_STREAM, positions=positions, count=4)[:, 0] < 0.5
        try:
            found = [self.source.load(self.chosen[order[position % len(order)]]) for position in positions.tolist()]
        except UserError as error:
            return error
        return [_flipped(one) if flip else one for one, flip in zip(found, drawn.tolist())]


def _flipped(one: Objects) -> Objects:
    width = one.image.shape[1]
    boxes = one.boxes.copy()
    boxes[:, [0, 2]] = width - one.boxes[:, [2, 0]]
    return one._replace(
        image=np.ascontiguousarray(one.image[:, ::-1]), boxes=boxes, masks=np.ascontiguousarray(one.masks[:, :, ::-1])
    )


def to_images(objects: list[Objects], device: torch.device) -> list[Tensor]:
    """Images [3, H, W] in [0, 1] on the device."""
    scale = {np.dtype("uint8"): 255.0, np.dtype("uint16"): 65535.0}
    return [
        torch.tensor(one.image, device=device).permute(2, 0, 1).float() / scale.get(one.image.dtype, 1.0)
        for one in objects
    ]


def to_targets(objects: list[Objects], device: torch.device) -> list[dict[str, Tensor]]:
    """What torchvision's detectors learn from; crowds are left out."""
    return [
        {
            "boxes": torch.from_numpy(one.boxes[~one.crowd]).to(device),
            "labels": torch.from_numpy(one.labels[~one.crowd]).to(device),
            "masks": torch.from_numpy(one.masks[~one.crowd].astype(np.uint8)).to(device),
        }
        for one in objects
    ]


def _train(
    model: Detector,
    source: BoxSource,
    chosen: list[int],
    start: ResolvedEncoder,
    config: DetectConfig,
    *,
    work: Path | None,
    share: float,
) -> dict[str, Any]:
    device, runtime = config.runtime.torch_device, config.runtime
    batch = config.fit.batch_size
    steps_per_epoch = max(1, len(source) // batch)  # of all training images, whatever the share
    total = config.fit.epochs * steps_per_epoch
    steps = Steps(source, chosen, batch=batch, steps_per_epoch=steps_per_epoch, seed=config.seed)

    def batches(first: int) -> Iterator[list[Objects]]:
        return in_workers(steps, range(first, total), workers=runtime.processes)

    backbone = model.network.backbone
    assert isinstance(backbone, Backbone)
    plain = {key: value for key, value in to_dict(config).items() if key not in ("runtime", "save_predictions")}
    return fit(
        model,
        batches=batches,
        loss=lambda objects: model(to_images(objects, device), to_targets(objects, device)),
        steps=total,
        steps_per_epoch=steps_per_epoch,
        config=config.fit,
        device=device,
        precision=runtime.dtype,
        seed=config.seed,
        encoder=None if config.frozen else backbone.encoder,
        work=work,
        identity={"config": plain, "share": share, "data": source.fingerprint(), "weights": start.fingerprint},
    )


def _absent(source: BoxSource, chosen: list[int]) -> list[str]:
    """Classes without a box in the chosen images; UserError where all are."""
    seen = {row["category_id"] for index in chosen for row in source.truth(index) if not row["iscrowd"]}
    if not seen:
        raise UserError(f"--data {source.spec}: none of the {len(chosen)} training images has an object to learn from")
    return [name for place, name in enumerate(source.classes) if place + 1 not in seen]


# ----------------------------------------------------------------------------------------------------- testing


class _InOrder(Dataset[tuple[int, Objects] | UserError]):
    def __init__(self, source: BoxSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> tuple[int, Objects] | UserError:
        try:
            return index, self.source.load(index)
        except UserError as error:
            return error


@torch.no_grad()
def _test(
    model: Detector, source: BoxSource, config: DetectConfig, *, work: Path | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures by name, and AP by class for the details; draws the first predictions into `work`."""
    device, runtime = config.runtime.torch_device, config.runtime
    evaluator = Evaluator(source.classes)
    waiting: list[tuple[int, Objects]] = []
    data = in_workers(_InOrder(source), range(len(source)), workers=runtime.processes)
    model.eval()
    for index, one in tqdm(data, total=len(source), desc="detect", unit="image", disable=None, leave=False):
        waiting.append((index, one))
        if len(waiting) < runtime.batch and index < len(source) - 1:
            continue
        with autocast(device, runtime.dtype):
            found = model(to_images([one for _, one in waiting], device))
        for (place, objects), prediction in zip(waiting, found):
            boxes, labels, scores = (prediction[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
            masks = (prediction["masks"][:, 0] > 0.5).cpu().numpy() if config.masks else None
            evaluator.add(
                size=source.size(place),
                truth=source.truth(place),
                boxes=boxes,
                labels=labels.astype(np.int64),
                scores=scores,
                masks=masks,
            )
            if work is not None and place < config.save_predictions:
                kept = scores >= config.score_threshold
                shown = Objects(
                    image=objects.image,
                    boxes=boxes[kept],
                    labels=labels[kept].astype(np.int64),
                    masks=masks[kept] if masks is not None else np.zeros((kept.sum(), *objects.masks.shape[1:]), bool),
                    crowd=np.zeros(kept.sum(), bool),
                )
                path = work / "predictions" / f"{place:04d}.png"
                save_objects(path, objects, shown, scores=scores[kept], classes=source.classes)
        waiting = []
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for kind, name in (("bbox", "box"), ("segm", "mask"))[: 2 if config.masks else 1]:
        figures, details[f"{name}_ap_by_class"] = evaluator.scores(kind)
        metrics |= {f"{name}_{figure}": value for figure, value in figures.items()}
    return metrics, details
