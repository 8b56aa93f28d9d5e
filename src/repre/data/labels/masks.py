"""What a ``--data`` string means where every pixel has a label: images with semantic masks.

scenes, scenes:COUNT, scenes:COUNT:SIZE   the embedded scenes; class 0 is the background
ade20k:DIR                                ADEChallengeData2016; the label 0 is ignored, 1..150 become 0..149
voc:DIR                                   Pascal VOC 2012, the lists of ImageSets/Segmentation; 21 classes
pairs:IMAGES,MASKS                        two folders with the same stems, masks as gray or palette PNG; both may hold
                                          train/ and val/, or be written with {split}; else a fifth is held out
"""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from repre.data.io.decode import EXTENSIONS, UnreadableImage, in_range, read_image
from repre.data.io.sources import open_source
from repre.data.loading.order import epoch_order
from repre.data.scenes import KEPT_BYTES, Scenes
from repre.errors import UserError, near_names

Array = np.ndarray

IGNORE = 255
"""Label of the pixels that count neither in a loss nor in a figure."""
HELD_OUT = 0.2
"""Share of `pairs:` without train/ and val/ that is held out; the same images whatever the evaluation's seed."""
VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog",
    "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
]  # fmt: skip


class MaskSource(Protocol):
    """Images by index with a label for every pixel. Sources travel to worker processes."""

    spec: str
    """The string that it was opened from."""
    channels: int
    """Channels of every image."""
    classes: list[str]
    """Names of the classes; label c means classes[c]."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> tuple[Array, Array]:
        """Image [H, W, C] in uint8 (or uint16, float32) and mask uint8 [H, W], `IGNORE` where nothing is known.

        Raises UserError, naming the file, where a file is damaged, the sizes differ or a label is out of range.
        """

    def describe(self, index: int) -> str:
        """What to call image `index` in a message or a file name."""

    def fingerprint(self) -> str:
        """A hash of which images and masks these are: names, sizes and times of change of files."""


def open_masks(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
) -> MaskSource:
    """Opens what `spec` names (see the head of this file).

    Args:
        split: train or val.
        whole: nothing is held out of `pairs:` that are not split, because the test images come from elsewhere.
        value_range: pixel values that stand for 0 and 1, as which the images are given; None leaves them as they are.

    Raises:
        UserError: there is no such thing, an image has no mask, or there are none at all.
    """
    if split not in ("train", "val"):
        raise UserError(f"masks have no split {split!r}; there are train and val")
    found = _open(spec, split, channels, whole=whole)
    return found if value_range is None else RangedMasks(found, value_range)


def _open(spec: str, split: str, channels: int, *, whole: bool) -> MaskSource:
    name, _, rest = spec.partition(":")
    if name == "scenes":
        return SceneMasks(spec, split, channels)
    if name not in ("pairs", *FOLDERS):
        known = ["scenes", *FOLDERS, "pairs"]
        if Path(spec).expanduser().exists():
            raise UserError(f"--data {spec}: where are the masks? Write pairs:IMAGES,MASKS, ade20k:DIR or voc:DIR")
        near = near_names(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"--data {spec}: no data with masks is called {name!r}{near}")
    if not rest:
        raise UserError(
            f"--data {spec}: name the folder too: {'pairs:IMAGES,MASKS' if name == 'pairs' else f'{name}:DIR'}"
        )
    if name == "pairs":
        return _pairs(spec, rest, split, channels, whole=whole)
    return FOLDERS[name](spec, rest, split, channels)


class RangedMasks:
    """Images of another source, float32 in [0, 1] by the range of values that was declared for them."""

    def __init__(self, source: MaskSource, value_range: tuple[float, float]) -> None:
        self.source, self.value_range = source, value_range
        self.spec, self.channels, self.classes = source.spec, source.channels, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> tuple[Array, Array]:
        image, mask = self.source.load(index)
        return in_range(image, self.value_range), mask

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.value_range}"


# -------------------------------------------------------------------------------------------------------- scenes


class SceneMasks:
    """The embedded scenes; a small set is drawn once per process."""

    channels = 3

    def __init__(self, spec: str, split: str, channels: int) -> None:
        scenes = open_source(spec, channels=channels)
        assert isinstance(scenes, Scenes)
        self.scenes = scenes if split == "train" else scenes.held_out(dense=True)
        self.spec, self.classes = spec, ["background", *scenes.classes]
        self._drawn: dict[int, tuple[Array, Array]] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_drawn": {}}

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, index: int) -> tuple[Array, Array]:
        if index not in self._drawn:
            scene = self.scenes.scene(index)
            if len(self._drawn) * (scene.image.nbytes + scene.semantic.nbytes) > KEPT_BYTES:
                return scene.image, scene.semantic
            self._drawn[index] = scene.image, scene.semantic
        return self._drawn[index]

    def describe(self, index: int) -> str:
        return self.scenes.describe(index)

    def fingerprint(self) -> str:
        return f"{len(self.scenes)} {self.scenes.split} {self.scenes.config}"


# --------------------------------------------------------------------------------------------------------- files


class FileMasks:
    """Image files, each with a PNG of labels.

    Args:
        pairs: image and mask of every sample.
        shift: the file's label of class 0; smaller labels are ignored.
    """

    def __init__(
        self, spec: str, pairs: list[tuple[Path, Path]], classes: list[str], *, channels: int, shift: int = 0
    ) -> None:
        self.spec, self.pairs, self.classes, self.channels, self.shift = spec, pairs, classes, channels, shift

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
                f"{mask_path} has {_size(labels)} pixels, but its image {path} has {_size(image)}; "
                "save the mask at its image's size (an image rotated by its EXIF data is turned upright first)"
            )
        wrong = labels[(labels >= len(self.classes) + self.shift) & (labels != IGNORE)]
        if len(wrong):
            raise UserError(
                f"{mask_path} holds the label {wrong.max()}, but there are {len(self.classes)} classes: labels are "
                f"{self.shift} to {self.shift + len(self.classes) - 1}, and {IGNORE} for pixels to ignore"
            )
        ignored = (labels == IGNORE) | (labels < self.shift)
        return image, np.where(ignored, IGNORE, labels - self.shift).astype(np.uint8)

    def describe(self, index: int) -> str:
        return str(self.pairs[index][0])

    def fingerprint(self) -> str:
        found = hashlib.sha256(f"{self.shift} {len(self.classes)}".encode())
        for path in (path for pair in self.pairs for path in pair):
            status = os.stat(path)
            found.update(os.fsencode(path.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        return found.hexdigest()


def read_labels(path: Path) -> Array:
    """Labels of a gray or palette PNG, int64 [H, W]; UserError where it is damaged or has colors."""
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


def _images(folder: Path) -> dict[str, Path]:
    """Image files below a folder by their path without its ending, in a fixed order."""
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"--data: there is no folder {folder}{near_names(folder.name, beside)}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found:
                raise UserError(f"{found[stem]} and {path} would share one mask; rename or remove one of them")
            found[stem] = path
    if not found:
        raise UserError(f"--data: {folder} holds no images ({', '.join(EXTENSIONS)})")
    return found


def _match(images: dict[str, Path], masks: Path) -> list[tuple[Path, Path]]:
    """Every image with the PNG of its stem in the folder `masks`."""
    if not masks.is_dir():
        raise UserError(f"--data: there is no folder of masks {masks}")
    pairs = [(path, masks / f"{stem}.png") for stem, path in images.items()]
    missing = [(path, mask) for path, mask in pairs if not mask.is_file()]
    if missing:
        path, mask = missing[0]
        other = [p.name for p in mask.parent.glob(f"{mask.stem}.*")] if mask.parent.is_dir() else []
        hint = f" (there is {other[0]}; masks have to be PNG, which keeps labels as they are)" if other else ""
        raise UserError(
            f"{len(missing)} of {len(pairs)} images have no mask; the first is {path}, whose mask would be {mask}{hint}. "
            "Add the masks, or take the images out of the folder"
        )
    return pairs


def _inside(root: Path, inner: list[str], wanted: str) -> Path:
    """The folder that holds `wanted`: `root` or one of the usual folders inside it."""
    for folder in [root, *(root / name for name in inner)]:
        if (folder / wanted).exists():
            return folder
    raise UserError(f"--data: {root} has no {wanted}; name the folder that the archive unpacks to")


def _ade20k(spec: str, rest: str, split: str, channels: int) -> FileMasks:
    root = _inside(Path(rest).expanduser(), ["ADEChallengeData2016"], "annotations")
    part = "training" if split == "train" else "validation"
    pairs = _match(_images(root / "images" / part), root / "annotations" / part)
    classes = [str(number) for number in range(1, 151)]
    table = root / "objectInfo150.txt"
    if table.is_file():
        rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        if len(rows) != 150:
            raise UserError(f"{table} lists {len(rows)} classes, not 150; take the original file or remove it")
        classes = [row[-1].split(",")[0].strip() for row in rows]
    return FileMasks(spec, pairs, classes, channels=channels, shift=1)


def _voc(spec: str, rest: str, split: str, channels: int) -> FileMasks:
    lists = Path("ImageSets") / "Segmentation"
    root = _inside(Path(rest).expanduser(), ["VOC2012", "VOCdevkit/VOC2012"], str(lists))
    listed = root / lists / f"{split}.txt"
    if not listed.is_file():
        raise UserError(f"--data {spec}: there is no list {listed}")
    stems = listed.read_text(encoding="utf-8").split()
    images = {stem: root / "JPEGImages" / f"{stem}.jpg" for stem in stems}
    missing = [path for path in images.values() if not path.is_file()]
    if missing or not images:
        what = f"{len(missing)} of {len(images)} images of {listed} do not exist" if images else f"{listed} is empty"
        raise UserError(f"--data {spec}: {what}{f', the first is {missing[0]}' if missing else ''}")
    return FileMasks(spec, _match(images, root / "SegmentationClass"), VOC_CLASSES, channels=channels)


def _pairs(spec: str, rest: str, split: str, channels: int, *, whole: bool) -> FileMasks:
    given = rest.split(",")
    if len(given) != 2 or not all(given):
        raise UserError(f"--data {spec}: write pairs:IMAGES,MASKS, two folders with a comma between them")
    roots = [Path(part).expanduser() for part in given]
    parts = {name: [Path(str(root).replace("{split}", name)) for root in roots] for name in ("train", "val")}
    if all((roots[0] / name).is_dir() for name in parts):
        parts = {name: [root / name for root in roots] for name in parts}
    pairs = {name: _match(_images(images), masks) for name, (images, masks) in parts.items()}
    if parts["train"] == parts["val"] and not whole:
        everything = pairs["train"]
        if len(everything) < 2:
            raise UserError(f"--data {spec}: one image cannot be split into training and validation; add more")
        order = epoch_order(len(everything), seed=0, epoch=0)
        held = max(1, round(HELD_OUT * len(everything)))
        pairs = {
            "val": [everything[i] for i in sorted(order[:held])],
            "train": [everything[i] for i in sorted(order[held:])],
        }
    places = [folder for root in roots for folder in (root, Path(str(root).partition("{split}")[0]), root.parent)]
    named = next((place / "classes.txt" for place in places if (place / "classes.txt").is_file()), None)
    if named is not None:
        lines = named.read_text(encoding="utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
        if not 2 <= len(classes) <= IGNORE:
            raise UserError(f"{named} names {len(classes)} classes; write 2 to {IGNORE} of them, one per line")
    else:
        masks = tuple(mask for part in pairs.values() for _, mask in part)
        top = _largest_label(masks, tuple(mask.stat().st_mtime_ns for mask in masks))
        classes = [str(number) for number in range(top + 1)]
    return FileMasks(spec, pairs[split], classes, channels=channels)


@lru_cache(maxsize=4)
def _largest_label(masks: tuple[Path, ...], changed: tuple[int, ...]) -> int:
    """The largest label of any mask; every mask is read once, and again only where a time of change is another."""
    assert len(masks) == len(changed)
    top = 0
    for path in tqdm(masks, desc="masks", unit="mask", disable=None, leave=False):
        labels = read_labels(path)
        known = labels[labels != IGNORE]
        if known.size and known.max() > IGNORE:
            raise UserError(f"{path} holds the label {known.max()}; labels are 0 to {IGNORE - 1}, {IGNORE} is ignored")
        top = max(top, int(known.max(initial=0)))
    if top < 1:
        raise UserError(f"the masks beside {masks[0]} hold no label above 0, and a single class cannot be learned")
    return top


FOLDERS: dict[str, Callable[[str, str, str, int], FileMasks]] = {"ade20k": _ade20k, "voc": _voc}
