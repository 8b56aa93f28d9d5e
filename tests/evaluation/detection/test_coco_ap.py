"""The metrics equal those of pycocotools on the same detections."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from repre.data.labels.coco_masks import encode_mask
from repre.evaluation.detection.coco_ap import METRICS, Evaluator
from repre.evaluation.detection.detection_data import Detections

CLASSES = ["a", "b", "c"]


def scene(rng: np.random.Generator, *, side: int = 120, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random boxes, labels and masks (ellipses in the boxes)."""
    corner = rng.uniform(0, side * 0.7, (count, 2))
    extent = rng.uniform(6, side * 0.7, (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + extent, side)], axis=1)
    y, x = np.mgrid[:side, :side] + 0.5
    masks = np.stack(
        [
            ((x - (b[0] + b[2]) / 2) / (b[2] - b[0]) * 2) ** 2 + ((y - (b[1] + b[3]) / 2) / (b[3] - b[1]) * 2) ** 2 < 1
            for b in boxes
        ]
    )
    return boxes, rng.integers(1, 3, count), masks  # the class c never occurs


def truth_rows(boxes: np.ndarray, labels: np.ndarray, masks: np.ndarray, crowd: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "bbox": [float(v) for v in (b[0], b[1], b[2] - b[0], b[3] - b[1])],
            "category_id": int(label),
            "segmentation": encode_mask(mask),
            "area": float(mask.sum()),
            "iscrowd": int(c),
        }
        for b, label, mask, c in zip(boxes, labels, masks, crowd)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_pycocotools(seed: int) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    from pycocotools import mask as packer
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    evaluator = Evaluator(CLASSES)
    images, truth, detected = [], [], []
    for image in range(1, 13):
        boxes, labels, masks = scene(rng, count=int(rng.integers(1, 6)))
        rows = truth_rows(boxes, labels, masks, rng.random(len(boxes)) < 0.1)
        keep = rng.random(len(boxes)) < 0.8  # some are missed, others invented
        more = scene(rng, count=2)
        boxes, labels, masks = (np.concatenate([a[keep], b]) for a, b in zip((boxes, labels, masks), more))
        boxes = boxes + rng.normal(0, 3, boxes.shape)
        scores = rng.random(len(boxes))
        evaluator.add(size=(120, 120), truth=rows, detections=Detections(boxes, labels, scores, masks))
        images.append({"id": image, "height": 120, "width": 120})
        truth += [{**row, "image_id": image, "id": len(truth) + i + 1} for i, row in enumerate(rows)]
        for b, label, mask, score in zip(boxes, labels, masks, scores):
            packed = packer.encode(np.asfortranarray(mask.astype(np.uint8)))
            box = [float(v) for v in (b[0], b[1], b[2] - b[0], b[3] - b[1])]
            row = {"image_id": image, "category_id": int(label), "score": float(score)}
            detected.append((row | {"bbox": box}, row | {"segmentation": packed}))
    for iou_type, index in (("bbox", 0), ("segm", 1)):
        with contextlib.redirect_stdout(io.StringIO()):
            reference = pycocotools.COCO()
            categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
            reference.dataset = {
                "images": images,
                "annotations": [dict(row) for row in truth],
                "categories": categories,
            }
            reference.createIndex()
            run = COCOeval(reference, reference.loadRes([pair[index] for pair in detected]), iou_type)
            run.evaluate()
            run.accumulate()
            run.summarize()
        metrics, by_class = evaluator.scores(iou_type)  # type: ignore[arg-type]
        expected = {name: value for name, value in zip(METRICS, run.stats) if value != -1}
        assert metrics == pytest.approx(expected, abs=1e-9)
        assert 0 < metrics["ap"] < 1
        assert by_class["c"] is None
        assert np.mean([by_class["a"], by_class["b"]]) == pytest.approx(metrics["ap"], abs=1e-9)


def test_perfect_predictions_score_one_and_none_score_zero() -> None:
    rng = np.random.default_rng(0)
    boxes, labels, masks = scene(rng, count=3)
    rows = truth_rows(boxes, labels, masks, np.zeros(3))
    perfect, nothing = Evaluator(CLASSES), Evaluator(CLASSES)
    perfect.add(size=(120, 120), truth=rows, detections=Detections(boxes, labels, np.ones(3), masks))
    empty = np.zeros((0, 4))
    nothing.add(size=(120, 120), truth=rows, detections=Detections(empty, empty[:, 0], empty[:, 0], None))
    assert perfect.scores("bbox")[0]["ap"] == perfect.scores("segm")[0]["ap"] == pytest.approx(1)
    assert nothing.scores("bbox")[0]["ap"] == nothing.scores("segm")[0]["ap"] == 0


def test_truth_without_masks_counts_by_its_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes, labels, masks = scene(rng, count=3)
    rows = [row | {"segmentation": []} for row in truth_rows(boxes, labels, masks, np.zeros(3))]
    evaluator = Evaluator(CLASSES)
    evaluator.add(size=(120, 120), truth=rows, detections=Detections(boxes, labels, np.ones(3), None))
    assert evaluator.scores("bbox")[0]["ap"] == pytest.approx(1)


def test_detections_above_a_threshold() -> None:
    masks = np.arange(3)[:, None, None] == np.arange(3)
    above = Detections(np.eye(3, 4), np.array([1, 2, 3]), np.array([0.9, 0.5, 0.1]), masks).above(0.5)
    assert above.labels.tolist() == [1, 2]
    assert above.scores.tolist() == [0.9, 0.5]
    assert above.boxes.shape == (2, 4)
    assert above.masks is not None
    assert above.masks.shape == (2, 1, 3)


def test_a_crowd_in_plain_run_lengths_forgives_what_lies_in_it() -> None:
    """Detections inside a crowd count neither for nor against, whichever way its mask is written."""
    boxes, _, masks = scene(np.random.default_rng(0), count=2)
    masks[1] = False
    masks[1, 60:, :] = True
    boxes[0], boxes[1] = (10, 10, 40, 40), (0, 60, 120, 120)
    masks[0] = False
    masks[0, 10:40, 10:40] = True
    runs = np.flatnonzero(np.diff(np.concatenate([[False], masks[1].T.ravel(), [False]]).astype(int)))
    counts = np.diff(np.concatenate([[0], runs, [masks[1].size]])).tolist()
    inside = np.array([[20.0, 70, 60, 100]] * 5)
    few = np.zeros((5, 120, 120), bool)
    few[:, 70:100, 20:60] = True
    found = Detections(
        np.concatenate([inside, boxes[:1]]),
        np.ones(6, np.int64),
        np.linspace(0.9, 0.4, 6),
        np.concatenate([few, masks[:1]]),
    )
    for plain in (False, True):
        rows = truth_rows(boxes, np.ones(2, np.int64), masks, np.array([0, 1]))
        if plain:
            rows[1]["segmentation"] = {"size": [120, 120], "counts": counts}
        evaluator = Evaluator(CLASSES)
        evaluator.add(size=(120, 120), truth=rows, detections=found)
        assert evaluator.scores("segm")[0]["ap"] == pytest.approx(1)
        assert evaluator.scores("bbox")[0]["ap"] == pytest.approx(1)
