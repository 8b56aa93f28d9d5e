"""COCO's average precision of boxes and masks, by faster-coco-eval (a maintained port of pycocotools). The only file that
imports it.

    n  objects    H, W  height and width
"""

import contextlib
import io
from typing import Any

import numpy as np

from repre.data.labels import rle
from repre.errors import UserError

Array = np.ndarray

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""COCO's first six figures: over IoU 0.50 to 0.95, at 0.50 and 0.75, and by size of the object (32 and 96 pixels)."""
NOTHING = -1.0
"""What COCO gives where there is no object of that kind."""


class Evaluator:
    """Collects truth and predictions of images, and scores them.

    Args:
        classes: names; label c means classes[c - 1].
    """

    def __init__(self, classes: list[str]) -> None:
        _library()
        self.classes = classes
        self.images: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(
        self,
        *,
        size: tuple[int, int],
        truth: list[dict[str, Any]],
        boxes: Array,
        labels: Array,
        scores: Array,
        masks: Array | None,
    ) -> None:
        """One image.

        Args:
            size: height and width.
            truth: COCO's annotations, with labels as categories.
            boxes: [n, 4] left, top, right, bottom; labels, scores: [n]; masks: bool [n, H, W], None to score boxes only.
        """
        image = len(self.images) + 1
        self.images.append({"id": image, "height": size[0], "width": size[1]})
        for row in truth:
            segmentation = row["segmentation"] or _outline(row["bbox"])
            own = {"id": len(self.truth) + 1, "image_id": image, "segmentation": segmentation}
            self.truth.append({**{k: row[k] for k in ("bbox", "category_id", "area", "iscrowd")}, **own})
        for place, (box, label, score) in enumerate(zip(boxes, labels, scores)):
            x, y, right, bottom = (float(v) for v in box)
            row = {"image_id": image, "category_id": int(label), "bbox": [x, y, right - x, bottom - y]}
            if masks is not None:
                row["segmentation"] = rle.encode(masks[place])
            self.found.append({**row, "score": float(score)})

    def scores(self, kind: str) -> tuple[dict[str, float], dict[str, float | None]]:
        """Figures of kind ``bbox`` or ``segm``, and the AP of every class; a class that does not occur has None, and a size
        that does not occur is left out."""
        coco, evaluation, masks = _library()
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(self.classes)]
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            truth = coco({"images": self.images, "annotations": self.truth, "categories": categories})
            if not self.found:
                occur = {row["category_id"] for row in self.truth}
                empty = {name: 0.0 if place + 1 in occur else None for place, name in enumerate(self.classes)}
                return dict.fromkeys(FIGURES[:3], 0.0), empty
            found = truth.loadRes([_packed(row, masks) for row in self.found] if kind == "segm" else _boxes(self.found))
            run = evaluation(truth, found, kind)
            run.evaluate()
            run.accumulate()
            run.summarize()
        figures = {name: float(value) for name, value in zip(FIGURES, run.stats) if value != NOTHING}
        precision = run.eval["precision"]  # [IoU, recall, class, size, detections]
        by_class: dict[str, float | None] = {}
        for place, name in enumerate(self.classes):
            values = precision[:, :, place, 0, -1]
            values = values[values > NOTHING]
            by_class[name] = float(values.mean()) if values.size else None
        return figures, by_class


def _boxes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "segmentation"} for row in rows]


def _packed(row: dict[str, Any], masks: Any) -> dict[str, Any]:
    """A prediction by its mask alone, packed, as the library wants it; its box is that of the mask."""
    height, width = row["segmentation"]["size"]
    return {
        **{k: v for k, v in row.items() if k != "bbox"},
        "segmentation": masks.frPyObjects(row["segmentation"], height, width),
    }


def _outline(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _library() -> tuple[Any, Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise UserError("detection is scored by faster-coco-eval: pip install 'repre[detect]'") from error
    return COCO, COCOeval_faster, mask
