"""A fitted detector of objects, by `repre eval detect`.

n  objects of an image    H, W  height and width of an image
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from PIL import Image
from torch import Tensor

from repre.data.io.decode import in_range
from repre.data.io.image_files import Decoding
from repre.data.labels.coco_masks import decode_mask, encode_mask
from repre.errors import UserError
from repre.evaluation.detection.detection_data import Detections
from repre.evaluation.detection.draw_detections import draw_detections
from repre.evaluation.detection.mask_rcnn import DetectImages, Detector, mask_rcnn
from repre.evaluation.detection.window_attention import use_windows
from repre.evaluation.fitted.fitted_model import (
    FittedModel,
    PredictOptions,
    check_range,
    check_sides,
    check_statistics,
)
from repre.evaluation.fitted.predictions import Boxes
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically

MAX_WIDTH = 8192
"""Channels of a pyramid; a stored config with more is taken for damage."""


@dataclass(frozen=True, kw_only=True)
class DetectHead:
    """Pyramid, region proposals and heads; None stands for the default of the image size, see `mask_rcnn`."""

    attention: Literal["global", "windowed"]
    """Whether all blocks of the encoder attend to the whole image."""
    window: int
    """Side of the windows of attention in patches."""
    width: int | None
    """Channels of the pyramid."""
    anchor: float | None
    """Side of a map's anchors over its stride."""
    masks: bool
    """Instance masks are predicted, too."""
    norm: bool
    """The encoder's maps come after its final norm."""

    def __post_init__(self) -> None:
        check_fields(self, "head")
        if self.width is not None and not 8 <= self.width <= MAX_WIDTH:
            raise UserError(f"head.width must be 8 to {MAX_WIDTH}, not {self.width}")
        if self.anchor is not None and not 0 < self.anchor <= MAX_WIDTH:
            raise UserError(f"head.anchor must be above 0, at most {MAX_WIDTH}, not {self.anchor}")


@dataclass(frozen=True, kw_only=True)
class DetectPreprocessing:
    """Resize, normalize; torchvision's detectors do it themselves."""

    size: int
    """Short side of the images in pixels."""
    long_side: int
    """Largest long side in pixels."""
    mean: tuple[float, ...]
    """Mean of every channel."""
    std: tuple[float, ...]
    """Standard deviation of every channel."""
    value_range: tuple[float, float] | None = None
    """Pixel values that become 0 and 1; None: those of the file type."""

    def __post_init__(self) -> None:
        check_fields(self, "preprocessing")
        check_statistics(self.mean, self.std, channels=3)
        check_range(self.value_range)
        check_sides(size=self.size, long_side=self.long_side)
        if min(self.size, self.long_side) < 1:
            raise UserError(f"preprocessing.size must be at least 1, not {self.size} and {self.long_side}")


def detector(
    encoder: Encoder,
    *,
    classes: int,
    head: DetectHead,
    preprocessing: DetectPreprocessing,
    scales: tuple[float, float] = (1.0, 1.0),
    frozen: bool = True,
) -> Detector:
    """Builds Mask R-CNN on an encoder; its heads are initialized from torch's random state.

    Args:
        classes: number of classes, without the background.
        scales: smallest and largest factor of the short side in training.
        frozen: whether only pyramid and heads are trained.

    Raises:
        UserError: the encoder cannot attend within windows.
    """
    if head.attention == "windowed":
        use_windows(encoder, window=head.window)
    return mask_rcnn(
        encoder,
        classes=classes,
        size=preprocessing.size,
        long_side=preprocessing.long_side,
        scales=scales,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        width=head.width,
        anchor=head.anchor,
        masks=head.masks,
        norm=head.norm,
        frozen=frozen,
    )


@dataclass(frozen=True)
class ImageReader:
    """Scales the values of an image [H, W, 3] to [0, 1] where a range was declared."""

    value_range: tuple[float, float] | None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image if self.value_range is None else in_range(image, self.value_range)


class FittedDetector(FittedModel):
    """Mask R-CNN: images of any size -> boxes with classes and scores, and instance masks if it was trained with them."""

    task = "detect"
    Head, Preprocessing = DetectHead, DetectPreprocessing
    output = "detections"
    file_name = "predictions.json"
    is_drawn = True
    is_exportable = False  # the number of boxes depends on the image, which torch.export and torch.onnx cannot trace
    head: DetectHead
    preprocessing: DetectPreprocessing
    network: Detector

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        *,
        classes: Sequence[str],
        head: DetectHead,
        preprocessing: DetectPreprocessing,
        batch: int,
    ) -> Self:
        if encoder.config.channels != 3:
            raise UserError(f"a detector takes images of three channels, not {encoder.config.channels}")
        network = detector(encoder, classes=len(classes), head=head, preprocessing=preprocessing)
        return cls(network, classes=classes, head=head, preprocessing=preprocessing, batch=batch)

    def forward(self, images: Tensor) -> Any:
        """Images [B, 3, H, W] in [0, 1], not normalized -> what `Detector` returns."""
        return self.network(list(images))

    @property
    def decoding(self) -> Decoding:
        return Decoding(channels=3, canvas=None, raw_values=self.preprocessing.value_range is not None)

    @property
    def reader(self) -> Callable[[np.ndarray], np.ndarray]:
        return ImageReader(self.preprocessing.value_range)

    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[np.ndarray], list[str]], list[Boxes]]:
        detect = DetectImages(self.network, masks=self.head.masks, runtime=runtime)

        def predict(images: list[np.ndarray], names: list[str]) -> list[Boxes]:
            return [
                self._boxes(name, (image.shape[0], image.shape[1]), found)
                for name, image, found in zip(names, images, detect(images))
            ]

        return predict

    def _boxes(self, name: str, size: tuple[int, int], found: Detections) -> Boxes:
        boxes = found.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        labels = tuple(self.classes[label - 1] for label in found.labels)
        categories = tuple(found.labels.tolist())
        return Boxes(name, size, boxes, labels, categories, tuple(found.scores.tolist()), found.masks)

    def write(self, prediction: Boxes, name: str, folder: Path, options: PredictOptions) -> dict[str, Any]:
        masks = None if prediction.masks is None else [encode_mask(mask) for mask in prediction.masks]
        return {
            "path": prediction.name,
            "size": list(prediction.size),
            "boxes": [[round(value, 3) for value in box] for box in prediction.boxes.tolist()],
            "categories": list(prediction.categories),
            "scores": [round(score, 6) for score in prediction.scores],
            "masks": masks,
        }

    def join(self, rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, options: PredictOptions) -> None:
        """Writes ``predictions.json`` as COCO's annotations, each with its `score`; an object at a time."""
        write_atomically(folder / self.file_name, partial(self._write_coco, rows))

    def _write_coco(self, rows: Callable[[], Iterator[dict[str, Any]]], file: BinaryIO) -> None:
        def images() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(rows(), start=1):
                height, width = row["size"]
                yield {"id": number, "file_name": row["name"], "height": height, "width": width}

        def annotations() -> Iterator[dict[str, Any]]:
            count = 0
            for number, row in enumerate(rows(), start=1):
                masks = row["masks"] or [None] * len(row["boxes"])
                for box, label, score, mask in zip(row["boxes"], row["categories"], row["scores"], masks):
                    count += 1
                    content = {"id": count, "image_id": number, "category_id": label, "bbox": box, "score": score}
                    area = round(box[2] * box[3], 3)
                    if mask is not None:
                        area = float(decode_mask(mask, height=row["size"][0], width=row["size"][1]).sum())
                    outline = {} if mask is None else {"segmentation": mask}
                    yield content | {"area": area, "iscrowd": 0} | outline

        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, start=1)]
        parts = {"images": images(), "annotations": annotations(), "categories": iter(categories)}
        for name, entries in parts.items():
            file.write((f'{{"{name}": [' if name == "images" else f'\n],\n"{name}": [').encode())
            for index, entry in enumerate(entries):
                file.write((("," if index else "") + "\n" + json.dumps(entry)).encode())
        file.write(b"\n]}\n")

    def draw(self, image: np.ndarray, prediction: Boxes, options: PredictOptions) -> Image.Image:
        image = ImageReader(self.preprocessing.value_range)(image)
        boxes = prediction.boxes.copy()
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array(prediction.categories, np.int64)
        found = Detections(boxes, labels, np.array(prediction.scores, np.float32), prediction.masks)
        return draw_detections(image, {"prediction": found.above(options.threshold)}, classes=self.classes)
