"""Hidden files and folders beside images and labels are not read."""

from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.boxes import open_boxes
from repre.data.labels.masks import open_masks
from repre.data.labels.visible_files import files_below
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, voc_object, write_text, write_voc, write_yolo


def hide(folder: Path) -> None:
    """What notebooks and macOS leave in a folder."""
    write_text(folder / "._0.jpg", "no image")
    write_text(folder / "._0.xml", "no XML")
    save_image(folder / ".ipynb_checkpoints" / "0-checkpoint.jpg")


@pytest.mark.parametrize("kind", ["yolo", "voc", "pairs"])
def test_every_format_leaves_them_out(kind: str, tmp_path: Path) -> None:
    stems = ["0", "1"]
    if kind == "yolo":
        write_yolo(tmp_path / "images", tmp_path / "labels", {key: ["0 0.5 0.5 0.5 0.5"] for key in stems})
        hide(tmp_path / "images")
        assert len(open_boxes(f"yolo:{tmp_path}", whole=True)) == 2
    elif kind == "voc":
        write_voc(tmp_path, {key: [voc_object("cat", (1, 1, 5, 5))] for key in stems})
        hide(tmp_path / "JPEGImages")
        hide(tmp_path / "Annotations")
        assert len(open_boxes(f"voc:{tmp_path}", whole=True)) == 2
    else:
        for stem in stems:
            save_image(tmp_path / "im" / f"{stem}.jpg")
            save_image(tmp_path / "m" / f"{stem}.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8))
        hide(tmp_path / "im")
        assert len(open_masks(f"pairs:{tmp_path / 'im'},{tmp_path / 'm'}", whole=True)) == 2


def test_a_hidden_folder_above_is_no_matter(tmp_path: Path) -> None:
    path = save_image(tmp_path / ".data" / "B" / "a.JPG")
    save_image(tmp_path / ".data" / "a.png")
    assert files_below(tmp_path / ".data") == [path, tmp_path / ".data" / "a.png"]
