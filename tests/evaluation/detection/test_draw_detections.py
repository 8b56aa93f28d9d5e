"""Pictures of detections: two panels, with boxes and masks in the colors of their classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.labels.boxes import Objects
from repre.evaluation.detection.detection_data import Detections
from repre.evaluation.detection.draw_detections import SIDE, save_detections
from repre.evaluation.segmentation.overlay import GAP, LINE, OPACITY, class_colors

CLASSES = ["a", "b"]


def test_panels_show_true_objects_and_detections(tmp_path: Path) -> None:
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 8:16, 2:10] = True
    box = np.array([[2.0, 8.0, 10.0, 16.0]], np.float32)
    truth = Objects(
        image=np.full((20, 20, 3), 100, np.uint8), boxes=box, labels=np.array([1]), masks=mask, crowd=np.zeros(1, bool)
    )
    detections = Detections(box + 8, np.array([2]), np.array([0.8]), None)
    save_detections(tmp_path / "deep" / "x.png", truth, detections, classes=CLASSES)
    sheet = np.asarray(Image.open(tmp_path / "deep" / "x.png")).astype(int)
    assert sheet.shape == (SIDE + LINE + GAP, 2 * SIDE + 3 * GAP, 3)

    def at(panel: int, x: float, y: float) -> list[int]:
        return sheet[LINE + int(y * SIDE / 20), GAP + panel * (SIDE + GAP) + int(x * SIDE / 20)].tolist()

    first, second = class_colors(CLASSES)
    assert first is not None
    assert second is not None
    assert at(0, 6, 12) == [round(100 + OPACITY * (channel - 100)) for channel in first]  # inside the mask
    assert at(0, 15, 4) == at(1, 6, 12) == [100, 100, 100]
    assert at(0, 2, 12) == list(first)  # the edge of the box
    assert at(1, 10, 18) == list(second)
    assert at(1, 14, 19) == [100, 100, 100]  # without a mask the box is empty
