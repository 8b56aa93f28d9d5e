"""Images with a PNG of labels each: ADE20K, Pascal VOC, and any two folders with matching names."""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from repre.data.io.decode import EXTENSIONS, UnreadableImage, read_image
from repre.data.labels.splits import fixed_hold_out
from repre.errors import UserError, near_names

Array = np.ndarray

IGNORE = 255
"""Label of pixels that count neither in a loss nor in a metric."""
VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog",
    "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
]  # fmt: skip


class FileMasks:
    """Image files, each with a PNG of labels.

    Args:
        spec: the string that the source was opened from.
        pairs: image and mask of every sample.
        classes: names of the classes.
        channels: channels of every image.
        first_label: label of class 0 in the files; smaller labels are ignored.
    """

    def __init__(
        self, spec: str, pairs: list[tuple[Path, Path]], classes: list[str], *, channels: int, first_label: int = 0
    ) -> None:
        self.spec, self.pairs, self.classes, self.channels = spec, pairs, classes, channels
        self.first_label = first_label

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[Array, Array]:
        path, mask_path = self.pairs[index]
        try:
            image = read_image(path, channels=self.channels)
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}; repair it, or remove it with its mask") from error
        labels = read_labels(mask_path)
        if labels.shape != image.shape[:2]:
            raise UserError(
                f"{mask_path} has {_size(labels)} pixels, but its image {path} has {_size(image)}; save the mask at the "
                "size of its image (an image rotated by its EXIF data is turned upright first)"
            )
        first, last = self.first_label, self.first_label + len(self.classes) - 1
        unknown = labels[(labels > last) & (labels != IGNORE)]
        if len(unknown):
            raise UserError(
                f"{mask_path} holds the label {unknown.max()}, but there are {len(self.classes)} classes: labels are "
                f"{first} to {last}, and {IGNORE} for pixels to ignore"
            )
        ignored = (labels == IGNORE) | (labels < first)
        return image, np.where(ignored, IGNORE, labels - first).astype(np.uint8)

    def describe(self, index: int) -> str:
        return str(self.pairs[index][0])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.first_label} {len(self.classes)}".encode())
        for path in (path for pair in self.pairs for path in pair):
            status = os.stat(path)
            digest.update(os.fsencode(path.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def read_labels(path: Path) -> Array:
    """Reads the labels of a gray or palette PNG, int64 [H, W].

    Raises:
        UserError: the file is missing or damaged, or it holds colors.
    """
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
                raise UserError(
                    f"{path} is a picture with colors ({file.mode}), not a mask: save the number of the class as gray "
                    "value or palette index"
                )
            return np.asarray(file).astype(np.int64)
    except FileNotFoundError as error:
        raise UserError(f"there is no mask {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the mask {path} cannot be read: {error}") from error


def _size(values: Array) -> str:
    return f"{values.shape[0]} x {values.shape[1]}"


# ---------------------------------------------------------------------------------------------- images and their masks


def _image_paths(folder: Path) -> dict[str, Path]:
    """Image files below a folder by their relative path without its ending, sorted."""
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"--data: there is no folder {folder}{near_names(folder.name, siblings)}")
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in paths:
                raise UserError(f"{paths[stem]} and {path} would share one mask; rename or remove one of them")
            paths[stem] = path
    if not paths:
        raise UserError(f"--data: {folder} holds no images ({', '.join(EXTENSIONS)})")
    return paths


def _pair(images: dict[str, Path], masks: Path) -> list[tuple[Path, Path]]:
    """Every image with the PNG of its stem in the folder `masks`."""
    if not masks.is_dir():
        raise UserError(f"--data: there is no folder of masks {masks}")
    pairs = [(path, masks / f"{stem}.png") for stem, path in images.items()]
    missing = [(path, mask) for path, mask in pairs if not mask.is_file()]
    if missing:
        path, mask = missing[0]
        same_stem = [p.name for p in mask.parent.glob(f"{mask.stem}.*")] if mask.parent.is_dir() else []
        hint = f" (there is {same_stem[0]}; masks have to be PNG, which keeps labels exact)" if same_stem else ""
        raise UserError(
            f"{len(missing)} of {len(pairs)} images have no mask; the first is {path}, whose mask would be {mask}{hint}. "
            "Add the masks, or move the images out of the folder"
        )
    return pairs


def _find_root(folder: Path, usual: list[str], content: str) -> Path:
    """The folder that holds `content`: `folder` itself or one of the usual folders inside it."""
    for root in [folder, *(folder / name for name in usual)]:
        if (root / content).exists():
            return root
    raise UserError(f"--data: {folder} has no {content}; name the folder that the archive unpacks to")


# ------------------------------------------------------------------------------------------------------------ formats


def open_ade20k(spec: str, folder: str, split: str, channels: int) -> FileMasks:
    """Opens ADEChallengeData2016: label 0 is ignored, labels 1 to 150 become classes 0 to 149."""
    root = _find_root(Path(folder).expanduser(), ["ADEChallengeData2016"], "annotations")
    part = "training" if split == "train" else "validation"
    pairs = _pair(_image_paths(root / "images" / part), root / "annotations" / part)
    classes = [str(number) for number in range(1, 151)]
    table = root / "objectInfo150.txt"
    if table.is_file():
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        if len(rows) != 150:
            raise UserError(f"{table} lists {len(rows)} classes, not 150; restore the original file or remove it")
        classes = [row[-1].split(",")[0].strip() for row in rows]
    return FileMasks(spec, pairs, classes, channels=channels, first_label=1)


def open_voc(spec: str, folder: str, split: str, channels: int) -> FileMasks:
    """Opens Pascal VOC 2012 by the lists of ImageSets/Segmentation."""
    lists = Path("ImageSets") / "Segmentation"
    root = _find_root(Path(folder).expanduser(), ["VOC2012", "VOCdevkit/VOC2012"], str(lists))
    listed = root / lists / f"{split}.txt"
    if not listed.is_file():
        raise UserError(f"--data {spec}: there is no list {listed}")
    stems = listed.read_text(encoding="utf-8").split()
    images = {stem: root / "JPEGImages" / f"{stem}.jpg" for stem in stems}
    missing = [path for path in images.values() if not path.is_file()]
    if not images:
        raise UserError(f"--data {spec}: {listed} is empty")
    if missing:
        count = f"{len(missing)} of {len(images)} images of {listed}"
        raise UserError(f"--data {spec}: {count} do not exist, the first is {missing[0]}")
    return FileMasks(spec, _pair(images, root / "SegmentationClass"), VOC_CLASSES, channels=channels)


def open_pairs(spec: str, folders: str, split: str, channels: int, *, hold_out: bool) -> FileMasks:
    """Opens IMAGES,MASKS: two folders with the same stems.

    Args:
        hold_out: hold images out for validation if the folders have no train/ and val/.
    """
    parts = folders.split(",")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"--data {spec}: write pairs:IMAGES,MASKS, two folders with a comma between them")
    roots = [Path(part).expanduser() for part in parts]
    of_split = {name: [Path(str(root).replace("{split}", name)) for root in roots] for name in ("train", "val")}
    if all((roots[0] / name).is_dir() for name in of_split):
        of_split = {name: [root / name for root in roots] for name in of_split}
    pairs = {name: _pair(_image_paths(images), masks) for name, (images, masks) in of_split.items()}
    if pairs["train"] == pairs["val"] and hold_out:
        everything = pairs["train"]
        if len(everything) < 2:
            raise UserError(f"--data {spec}: one image cannot be split into training and validation; add more")
        kept, held_out = fixed_hold_out(len(everything))
        pairs = {"train": [everything[i] for i in kept], "val": [everything[i] for i in held_out]}
    masks = tuple(mask for part in pairs.values() for _, mask in part)
    return FileMasks(spec, pairs[split], _pair_classes(roots, masks), channels=channels)


def _pair_classes(roots: list[Path], masks: tuple[Path, ...]) -> list[str]:
    """Names of the classes: the lines of a classes.txt in or beside the folders, or numbers up to the largest label."""
    folders = [folder for root in roots for folder in (root, Path(str(root).partition("{split}")[0]), root.parent)]
    file = next((folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()), None)
    if file is None:
        largest = _largest_label(masks, tuple(mask.stat().st_mtime_ns for mask in masks))
        return [str(number) for number in range(largest + 1)]
    classes = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not 2 <= len(classes) <= IGNORE:
        raise UserError(f"{file} names {len(classes)} classes; write 2 to {IGNORE} of them, one per line")
    return classes


@lru_cache(maxsize=4)
def _largest_label(masks: tuple[Path, ...], modified: tuple[int, ...]) -> int:
    """The largest label of all masks. They are read once, and again if one of them was modified."""
    assert len(masks) == len(modified)
    largest = 0
    for path in tqdm(masks, desc="masks", unit="mask", disable=None, leave=False):
        labels = read_labels(path)
        known = labels[labels != IGNORE]
        if known.size and known.max() > IGNORE:
            raise UserError(f"{path} holds the label {known.max()}; labels are 0 to {IGNORE - 1}, {IGNORE} is ignored")
        largest = max(largest, int(known.max(initial=0)))
    if largest < 1:
        raise UserError(f"the masks beside {masks[0]} hold no label above 0, and a single class cannot be learned")
    return largest


FORMATS: dict[str, Callable[[str, str, str, int], FileMasks]] = {"ade20k": open_ade20k, "voc": open_voc}
"""Data sets of one folder, by their names in ``--data``."""
