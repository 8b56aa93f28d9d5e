"""Writes scenes as files, in every format that evaluations read: to try them out, and to see how data are laid out.

The scenes are the embedded ones, or any others by index (`experiments/build_scenes.py` composes photographs).

OUT/labels.csv                         path, label, split                  csv:OUT/labels.csv
OUT/classes.txt                        names of the masks' labels, background first; in OUT/{train,val}/ too
OUT/{train,val}/images/000000.png                                          pairs:OUT/{split}/images,OUT/{split}/masks
OUT/{train,val}/masks/000000.png       gray, the label of every pixel
OUT/{train,val}/annotations.json       COCO: boxes and masks as compressed run lengths    coco:OUT
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from repre.data.labels.coco_masks import encode_mask
from repre.data.scenes import Scene, Scenes, ScenesConfig
from repre.errors import UserError
from repre.utils.os_errors import reason_of
from repre.utils.progress import track


class SceneSource(Protocol):
    """Scenes of one split by index."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes; label c means classes[c]."""

    def __len__(self) -> int: ...

    def scene(self, index: int) -> Scene:
        """Scene `index`, the same at every call."""


def write_scenes(out: Path, counts: dict[str, int], *, config: ScenesConfig) -> None:
    """Writes embedded scenes into a new or empty folder.

    Args:
        out: the folder.
        counts: number of scenes of every split.
        config: what the scenes look like.

    Raises:
        UserError: the folder is not empty or cannot be written.
    """
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"--{split} {count}: write at least one scene")
    write_sources(out, {split: Scenes(count, config=config, split=split) for split, count in counts.items()})


def write_sources(out: Path, sources: Mapping[str, SceneSource]) -> None:
    """Writes the scenes of every split into a new or empty folder. The splits have the same classes.

    Raises:
        UserError: the folder is not empty or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise UserError(f"--out {out} is not empty; name another folder")
        rows = []
        for split, scenes in sources.items():
            rows += _write_split(out, split, scenes)
            _write_classes(out / split, scenes)
        _write_classes(out, scenes)
        with open(out / "labels.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "label", "split"), *rows])
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {reason_of(error)}") from error


def _write_classes(folder: Path, scenes: SceneSource) -> None:
    (folder / "classes.txt").write_text("\n".join(["background", *scenes.classes]) + "\n", encoding="utf-8")


def _write_split(out: Path, split: str, scenes: SceneSource) -> list[tuple[str, str, str]]:
    """Writes images, masks and annotations of a split; returns its rows of the table of labels."""
    folder = out / split
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows = []
    for index in track(range(len(scenes)), split, total=len(scenes), unit="scene"):
        scene, name = scenes.scene(index), f"{index:06}.png"
        Image.fromarray(scene.image).save(folder / "images" / name)
        Image.fromarray(scene.semantic).save(folder / "masks" / name)
        height, width = scene.semantic.shape
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        annotations += _annotations(scene, image=index + 1, first=len(annotations) + 1)
        rows.append((f"{split}/images/{name}", scenes.classes[scene.label], split))
    categories = [{"id": number, "name": name} for number, name in enumerate(scenes.classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return rows


def _annotations(scene: Scene, *, image: int, first: int) -> list[dict[str, Any]]:
    rows = []
    for number, (box, label) in enumerate(zip(scene.boxes.tolist(), scene.classes.tolist())):
        mask = scene.instances == number + 1
        rows.append(
            {
                "id": first + number,
                "image_id": image,
                "category_id": label + 1,
                "bbox": box,
                "area": int(np.count_nonzero(mask)),
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            }
        )
    return rows
