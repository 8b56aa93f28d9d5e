"""Pictures of predicted masks: their panels and colors."""

from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.labels.masks import IGNORE
from repre.evaluation.segmentation.overlay import GAP, IGNORED_COLOR, LINE, SIDE, class_colors, save_overlay

CLASSES = ["background", "left", "right", "nowhere"]


def test_colors_differ_and_the_background_has_none() -> None:
    colors = class_colors(["background", *map(str, range(150))])
    assert colors[0] is None
    assert len(set(colors[1:])) == 150


def test_panels_show_image_truth_and_prediction(tmp_path: Path) -> None:
    image = np.full((24, 24, 3), 100, np.uint8)
    truth = np.zeros((24, 24), np.int64)
    truth[:, :8], truth[:, 20:] = 1, IGNORE
    predicted = np.zeros((24, 24), np.int64)
    predicted[:, 12:] = 2
    path = tmp_path / "deep" / "x.png"
    save_overlay(path, image, truth, predicted, CLASSES)
    sheet = np.asarray(Image.open(path)).astype(int)
    assert sheet.shape == (2 * LINE + SIDE + 2 * GAP, 3 * SIDE + 4 * GAP, 3)

    def at(panel: int, x: float, y: float = 0.5) -> list[int]:
        return sheet[LINE + int(y * SIDE), GAP + panel * (SIDE + GAP) + int(x * SIDE)].tolist()

    colors = class_colors(CLASSES)
    assert colors[1] is not None
    assert colors[2] is not None
    mixed = [[round(100 + 0.55 * (part - 100)) for part in color] for color in (colors[1], colors[2], IGNORED_COLOR)]
    assert at(0, 0.1) == at(1, 0.5) == at(2, 0.1) == [100, 100, 100]
    assert at(1, 0.1) == mixed[0]
    assert at(1, 0.9) == mixed[2]
    assert at(2, 0.9) == mixed[1]
    assert at(1, 8 / 24 - 0.002) == list(colors[1])  # the outline
    legend = sheet[LINE + SIDE + GAP :].reshape(-1, 3).tolist()
    assert all(list(color) in legend for color in (colors[1], colors[2], IGNORED_COLOR))
    assert list(colors[3] or ()) not in legend


def test_other_kinds_of_images(tmp_path: Path) -> None:
    labels = np.zeros((6, 9), np.int64)
    gray = np.full((6, 9, 1), 51, np.uint8)
    for number, image in enumerate((gray, gray.astype(np.uint16) * 257, (gray / 255).astype(np.float32).repeat(5, 2))):
        save_overlay(tmp_path / f"{number}.png", image, labels, labels, CLASSES)
        sheet = np.asarray(Image.open(tmp_path / f"{number}.png"))
        assert sheet[LINE + 50, GAP + 50].tolist() == [51, 51, 51]
