"""What a ``--data`` string means if objects have boxes and masks: images with their objects.

scenes, scenes:COUNT, scenes:COUNT:SIZE   the embedded scenes
coco:IMAGES,ANNOTATIONS.json              a folder and COCO's JSON
coco:DIR                                  train2017/ and val2017/ beside annotations/instances_*.json, or
                                          train/ and val/, each with images/ and annotations.json
yolo:DIR, yolo:FILE.yaml                  YOLO's label files, boxes or polygons; see `yolo_folders`
yolo:IMAGES,LABELS[,NAMES]                the same in any two folders
voc:DIR                                   Pascal VOC: JPEGImages/, Annotations/*.xml, lists in ImageSets/Main/; see `voc_xml`

A fifth is held out to test where nothing says which images are for testing.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.decode import in_range
from repre.data.io.sources import check_data, open_source
from repre.data.labels.coco_boxes import CocoBoxes
from repre.data.labels.coco_json import find_coco, read_coco_json
from repre.data.labels.coco_masks import encode_mask
from repre.data.labels.mask_files import VOC_FOLDERS, find_root
from repre.data.labels.objects import HELD_OUT_NOTE, BoxSource, Objects
from repre.data.labels.problems import Problems, listed
from repre.data.labels.voc_xml import find_voc, read_voc
from repre.data.labels.yolo_folders import find_yolo
from repre.data.labels.yolo_labels import read_yolo
from repre.data.scenes import Scenes
from repre.errors import UserError, near_names

__all__ = ["BoxSource", "Objects", "open_boxes"]


def open_boxes(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
    skip_unlabeled: bool = False,
    problems: Problems | None = None,
) -> BoxSource:
    """Opens what `spec` names; see the top of this file.

    Args:
        split: train or val.
        channels: channels of the images.
        whole: hold nothing out of data without splits, because other data are tested on.
        value_range: pixel values that become 0 and 1, of DICOM modality values; None leaves the images as they are.
        skip_unlabeled: leave out images that nobody labeled: without a label file or XML, or without an annotation in COCO.
        problems: collects mistakes in the annotations, and what is wrong is left out; None raises an error that names them.

    Raises:
        UserError: the data do not exist, or something in the annotations is wrong.
    """
    check_data(spec)
    if split not in ("train", "val"):
        raise UserError(f"boxes have no split {split!r}; there are train and val")
    name, _, rest = spec.partition(":")
    if name == "scenes":
        source: BoxSource = SceneBoxes(spec, split)
    else:
        source = _open_files(
            spec, name, rest, split, channels, whole=whole, skip_unlabeled=skip_unlabeled, problems=problems
        )
    if value_range is None:
        return source
    if isinstance(source, CocoBoxes):
        source.raw_values = True
    return RangedBoxes(source, value_range)


def _open_files(
    spec: str,
    name: str,
    rest: str,
    split: str,
    channels: int,
    *,
    whole: bool,
    skip_unlabeled: bool,
    problems: Problems | None,
) -> BoxSource:
    strict, problems = problems is None, problems or Problems(collect=True)
    folder = Path()  # file names are whole paths, except for COCO's
    hold_out = True
    if name == "coco":
        images, comma, file = rest.partition(",")
        if comma:
            folder, annotations = Path(images).expanduser(), Path(file).expanduser()
        else:
            folder, annotations = find_coco(spec, Path(rest).expanduser(), split)
            hold_out = False
        content = read_coco_json(annotations)
    elif name == "yolo":
        files, hold_out = find_yolo(spec, rest, split)
        content = read_yolo(files, problems, channels=channels)
    elif name == "voc" and rest:
        root = find_root(Path(rest).expanduser(), VOC_FOLDERS, "Annotations")
        stems = find_voc(root, split)
        hold_out = stems is None
        content = read_voc(root, stems, problems, channels=channels, skip_unlabeled=skip_unlabeled)
    else:
        known = ["scenes", "coco", "yolo", "voc"]
        if Path(spec).expanduser().exists():
            raise UserError(
                f"--data {spec}: name data with boxes: coco:IMAGES,ANNOTATIONS.json, coco:DIR, yolo:DIR or voc:DIR"
            )
        hint = near_names(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"--data {spec}: no data with boxes is called {name!r}{hint}")
    source = CocoBoxes(spec, folder, content, channels=channels, skip_unlabeled=skip_unlabeled, problems=problems)
    if strict and problems.messages:
        raise UserError(listed(f"--data {spec}: {len(problems.messages)} mistakes in the labels", problems.messages))
    if not hold_out or whole:
        return source
    source.notes.append(HELD_OUT_NOTE)
    return source.split(split)


class RangedBoxes:
    """Another source whose images are scaled from a declared value range to [0, 1], float32."""

    def __init__(self, source: BoxSource, value_range: tuple[float, float]) -> None:
        self.source, self.value_range = source, value_range
        self.spec, self.classes = source.spec, source.classes
        self.has_masks, self.notes = source.has_masks, source.notes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> Objects:
        objects = self.source.load(index)
        return objects._replace(image=in_range(objects.image, self.value_range))

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.source.truth(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.value_range}"


class SceneBoxes:
    """The embedded scenes."""

    has_masks = True

    def __init__(self, spec: str, split: str) -> None:
        scenes = open_source(spec, channels=3)
        assert isinstance(scenes, Scenes)
        self.scenes = scenes if split == "train" else scenes.held_out(dense=True)
        self.spec, self.classes = spec, list(scenes.classes)
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, index: int) -> Objects:
        scene = self.scenes.scene(index)
        count = len(scene.classes)
        x, y, width, height = scene.boxes.T
        return Objects(
            image=scene.image,
            boxes=np.stack([x, y, x + width, y + height], axis=1),
            labels=scene.classes + 1,
            masks=scene.instances[None] == np.arange(1, count + 1)[:, None, None],
            crowd=np.zeros(count, bool),
        )

    def truth(self, index: int) -> list[dict[str, Any]]:
        objects = self.load(index)
        return [
            {
                "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
                "category_id": int(label),
                "segmentation": encode_mask(mask),
                "area": float(mask.sum()),
                "iscrowd": 0,
            }
            for (left, top, right, bottom), label, mask in zip(objects.boxes, objects.labels, objects.masks)
        ]

    def size(self, index: int) -> tuple[int, int]:
        return self.scenes.config.size, self.scenes.config.size

    def describe(self, index: int) -> str:
        return self.scenes.describe(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.scenes.spec} {self.scenes.split} {self.scenes.config}".encode()).hexdigest()
