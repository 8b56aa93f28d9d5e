"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) on any encoder: torchvision's region proposals and heads on a pyramid.

Small images get small heads and few proposals, so that a CPU trains them in minutes. From 256 pixels on the sizes are
the published ones.

    n  objects of an image    H, W  height and width
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from repre.evaluation.detection.detection_data import Detections, to_images
from repre.evaluation.detection.pyramid import Backbone
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.pieces import Halving

SMALL_IMAGE = 256
"""Short side in pixels below which heads and proposals are small."""
MAX_DETECTIONS = 100
"""Detections per image, as COCO counts them."""


class Detector(nn.Module):
    """Mask R-CNN whose heads compute in float32, whatever the precision of the encoder.

    Args:
        network: torchvision's Mask R-CNN; its backbone is a `Backbone`.
        masks: whether instance masks are predicted.
    """

    def __init__(self, network: MaskRCNN, *, masks: bool) -> None:
        super().__init__()
        self.network = network
        if not masks:
            network.roi_heads.mask_roi_pool = network.roi_heads.mask_head = network.roi_heads.mask_predictor = None

    @property
    def encoder(self) -> Encoder:
        """The encoder below pyramid and heads."""
        encoder: Encoder = self.network.backbone.encoder
        return encoder

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Returns the loss in training mode, else the detections of every image.

        Args:
            images: [3, H, W] in [0, 1].
            targets: boxes, labels and masks of every image, in training mode.

        Returns:
            A scalar; or dictionaries of boxes [n, 4] (left, top, right, bottom in the image's pixels), labels [n],
            scores [n] and, with masks, masks [n, 1, H, W].
        """
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch, targets = self.network.transform(images, targets)
        maps = self.network.backbone(batch.tensors)
        with autocast(batch.tensors.device, torch.float32):
            proposals, proposal_losses = self.network.rpn(batch, maps, targets)
            detections, losses = self.network.roi_heads(maps, proposals, batch.image_sizes, targets)
        if self.training:
            return torch.stack([*proposal_losses.values(), *losses.values()]).sum()
        return self.network.transform.postprocess(detections, batch.image_sizes, sizes)


def mask_rcnn(
    encoder: Encoder,
    *,
    classes: int,
    size: int,
    long_side: int,
    scales: tuple[float, float] = (1.0, 1.0),
    mean: list[float],
    std: list[float],
    width: int | None = None,
    anchor: float | None = None,
    masks: bool = True,
    norm: bool = True,
    frozen: bool = False,
) -> Detector:
    """Builds a detector; its heads are initialized from torch's random state.

    Args:
        encoder: of three channels.
        classes: number of classes, without the background.
        size: short side in pixels to which images are resized.
        long_side: largest long side in pixels.
        scales: smallest and largest factor of the short side in training, drawn for every image.
        mean, std: normalization of every channel.
        width: channels of the pyramid; None: 256, or 128 for small images.
        anchor: side of a map's anchors over its stride; None: 8, or less for small images, so that the smallest anchor
            is an eighth of the image.
        masks: whether instance masks are predicted.
        norm: whether the encoder's maps come after its final norm.
        frozen: whether only pyramid and heads are trained.
    """
    small = size < SMALL_IMAGE
    width = width or (128 if small else 256)
    backbone = Backbone(encoder, width=width, norm=norm, frozen=frozen)
    anchor = anchor or min(8.0, size / (8 * backbone.strides[0]))
    levels = [str(level) for level in range(len(backbone.strides))]
    hidden_dim, mask_layers = (256, 2) if small else (1024, 4)
    outputs = classes + 1  # label 0 is the background
    network = MaskRCNN(
        backbone,
        min_size=_short_sides(size, scales),
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
        box_head=TwoMLPHead(width * 7**2, hidden_dim),
        box_predictor=FastRCNNPredictor(hidden_dim, outputs),
        box_batch_size_per_image=64 if small else 512,
        box_detections_per_img=MAX_DETECTIONS,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, (width,) * mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(width, width, outputs),
    )
    return Detector(network, masks=masks)


def _short_sides(size: int, scales: tuple[float, float]) -> tuple[int, ...]:
    """Short sides, of which training draws one for every image; torchvision tests with the last."""
    sides = {round(size * scale) for scale in np.linspace(*scales, 8)} - {size}
    return (*sorted(sides), size)


class DetectImages:
    """The detections of images by a trained detector, in batches that memory bears.

    Args:
        masks: whether the detector predicts instance masks.
        runtime: device and precision.
    """

    def __init__(self, model: Detector, *, masks: bool, runtime: RuntimeOptions) -> None:
        self.model, self.masks, self.runtime = model.eval(), masks, runtime
        self.pieces = Halving()

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray]) -> list[Detections]:
        """Images [H, W, 3], of any size -> their detections."""
        return [found for part in self.pieces(len(images), partial(self._detect, images)) for found in part]

    def _detect(self, images: list[np.ndarray], rows: slice) -> list[Detections]:
        device = self.runtime.torch_device
        with autocast(device, self.runtime.dtype):
            outputs = self.model(to_images(images[rows], device))
        return [_to_detections(output, masks=self.masks) for output in outputs]


def _to_detections(output: dict[str, Tensor], *, masks: bool) -> Detections:
    """What the model returns for an image, on the CPU."""
    boxes, labels, scores = (output[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
    shapes = (output["masks"][:, 0] > 0.5).cpu().numpy() if masks else None
    return Detections(boxes, labels.astype(np.int64), scores, shapes)
