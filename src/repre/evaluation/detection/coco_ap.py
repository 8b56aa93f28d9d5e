"""COCO's average precision of boxes and masks, computed by faster-coco-eval (a maintained port of pycocotools).

n  objects    H, W  height and width
"""

import contextlib
import io
from typing import Any, Literal

from faster_coco_eval import COCO, COCOeval_faster

from repre.data.labels.coco_masks import encode_mask
from repre.evaluation.detection.detection_data import Detections

METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""COCO's first six metrics: over IoU 0.50 to 0.95, at 0.50 and 0.75, and by size of the object (32 and 96 pixels)."""
NOT_DEFINED = -1.0
"""COCO's value of a metric without objects."""


class Evaluator:
    """Collects true objects and detections of images, and scores them.

    Args:
        classes: names; label c means classes[c - 1].
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.detections: list[dict[str, Any]] = []

    def add(self, *, size: tuple[int, int], truth: list[dict[str, Any]], detections: Detections) -> None:
        """Adds an image.

        Args:
            size: height and width.
            truth: COCO's annotations, with labels as categories (`BoxSource.truth`).
            detections: without masks, only boxes can be scored.
        """
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "height": size[0], "width": size[1]})
        for annotation in truth:
            segmentation = annotation["segmentation"] or _rectangle(annotation["bbox"])
            row = {key: annotation[key] for key in ("bbox", "category_id", "area", "iscrowd")}
            row |= {"id": len(self.truth) + 1, "image_id": image_id, "segmentation": segmentation}
            self.truth.append(row)
        for number, (box, label, score) in enumerate(zip(detections.boxes, detections.labels, detections.scores)):
            x, y, right, bottom = (float(value) for value in box)
            row = {"image_id": image_id, "category_id": int(label), "bbox": [x, y, right - x, bottom - y]}
            if detections.masks is not None:
                row["segmentation"] = encode_mask(detections.masks[number])
            self.detections.append({**row, "score": float(score)})

    def scores(self, iou_type: Literal["bbox", "segm"]) -> tuple[dict[str, float], dict[str, float | None]]:
        """Returns the metrics of boxes or masks, and the AP of every class.

        A metric of a size of which there are no objects is left out; a class without objects has None.
        """
        if not self.detections:
            labels = {row["category_id"] for row in self.truth}
            none_found = {name: 0.0 if label in labels else None for label, name in enumerate(self.classes, start=1)}
            return dict.fromkeys(METRICS[:3], 0.0), none_found
        categories = [{"id": label, "name": name} for label, name in enumerate(self.classes, start=1)]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            truth = COCO({"images": self.images, "annotations": self.truth, "categories": categories})
            unused = "segmentation" if iou_type == "bbox" else "bbox"  # the area of a mask is not that of its box
            detections = truth.loadRes([_without(row, unused) for row in self.detections])
            evaluation = COCOeval_faster(truth, detections, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics = {name: float(value) for name, value in zip(METRICS, evaluation.stats) if value != NOT_DEFINED}
        precision = evaluation.eval["precision"]  # [IoU, recall, class, size, detections]
        by_class: dict[str, float | None] = {}
        for index, name in enumerate(self.classes):
            values = precision[:, :, index, 0, -1]
            values = values[values > NOT_DEFINED]
            by_class[name] = float(values.mean()) if values.size else None
        return metrics, by_class


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def _rectangle(box: list[float]) -> list[list[float]]:
    """A box (x, y, width, height) as a polygon."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
