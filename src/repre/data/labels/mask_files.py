"""Images with a PNG of labels each: ADE20K, Pascal VOC, and any images and masks with matching names."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repre.data.io.decode import read_image
from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.label_map import IGNORE, LabelMap, MaskOptions, is_in_color, ranges
from repre.data.labels.mask_colors import USUAL_NAMES, ColorTable, read_color_table
from repre.data.labels.mask_pairs import Pairs, find_in, find_pairs, hold_out_pairs, image_paths, split_places
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.data.labels.problems import Problems, list_bad
from repre.data.labels.text_lines import read_lines
from repre.data.labels.unlikely_masks import check_values, values_in
from repre.errors import BadImage, UserError

Array = np.ndarray

VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog",
    "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
]  # fmt: skip
VOC_FOLDERS = ["VOC2012", "VOCdevkit/VOC2012", "VOC2007", "VOCdevkit/VOC2007"]
"""Folders that the archives of Pascal VOC unpack to."""


class FileMasks:
    """Image files, each with a PNG of labels.

    Args:
        spec: the string that the source was opened from.
        found: images with their masks, and without.
        labels: the classes, and the values in the files that stand for them.
        channels: channels of every image.

    Attributes:
        raw_values: see `FileSource`.
    """

    raw_values = False

    def __init__(self, spec: str, found: Pairs, labels: LabelMap, *, channels: int) -> None:
        self.spec, self.labels, self.channels = spec, labels, channels
        self.pairs, self.unlabeled = found.pairs, found.unlabeled
        self.classes = labels.classes
        self.notes = found.notes()

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[Array, Array]:
        path, mask_path = self.pairs[index]
        try:
            image = read_image(path, channels=self.channels, raw_values=self.raw_values)
        except UnreadableImage as error:
            raise BadImage(f"{path} cannot be read: {error}; repair it, or remove it with its mask") from error
        values = self.labels.read(mask_path)
        if values.shape != image.shape[:2]:
            raise BadImage(other_size(path, image.shape[:2], mask_path, values.shape))
        return image, self.labels.to_classes(mask_path, values)

    def describe(self, index: int) -> str:
        return str(self.pairs[index][0])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.identity().encode())
        for path in (path for pair in self.pairs for path in pair):
            status = os.stat(path)
            digest.update(os.fsencode(path.absolute()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def other_size(path: Path, size: tuple[int, ...], mask: Path, mask_size: tuple[int, ...], *, kind: str = "mask") -> str:
    """What is wrong with a mask of another size than its image; sizes are height and width."""
    return (
        f"{mask} has {mask_size[0]} x {mask_size[1]} pixels, but its image {path} has {size[0]} x {size[1]}; save the "
        f"{kind} at the size of its image (an image rotated by its EXIF data is turned upright first)"
    )


def find_root(folder: Path, usual: list[str], content: str) -> Path:
    """The folder that holds `content`: `folder` itself or one of the usual folders inside it."""
    for root in [folder, *(folder / name for name in usual)]:
        if (root / content).exists():
            return root
    raise UserError(f"--data: {folder} has no {content}; name the folder that the archive unpacks to")


# ------------------------------------------------------------------------------------------------------------ formats


def open_ade20k(spec: str, folder: str, split: str, channels: int, options: MaskOptions) -> FileMasks:
    """Opens ADEChallengeData2016: label 0 is ignored, labels 1 to 150 become classes 0 to 149."""
    root = find_root(Path(folder).expanduser(), ["ADEChallengeData2016"], "annotations")
    part = "training" if split == "train" else "validation"
    images = image_paths(root / "images" / part)
    found = find_pairs(images, root / "annotations" / part, suffix="", skip_unlabeled=options.skip_unlabeled)
    classes = [str(number) for number in range(1, 151)]
    table = root / "objectInfo150.txt"
    if table.is_file():
        rows = [line.split("\t") for line in read_lines(table)[1:]]
        if len(rows) != 150:
            raise UserError(f"{table} lists {len(rows)} classes, not 150; restore the original file or remove it")
        classes = [row[-1].split(",")[0].strip() for row in rows]
    entries = _numbered(["0", *classes])
    options = _without_zero(options)
    return FileMasks(spec, found, LabelMap(entries, options), channels=channels)


def open_voc(spec: str, folder: str, split: str, channels: int, options: MaskOptions) -> FileMasks:
    """Opens Pascal VOC by the lists of ImageSets/Segmentation; a classes.txt in the folder replaces VOC's 21 classes."""
    lists = Path("ImageSets") / "Segmentation"
    root = find_root(Path(folder).expanduser(), VOC_FOLDERS, str(lists))
    listed = root / lists / f"{split}.txt"
    if not listed.is_file():
        raise UserError(f"--data {spec}: there is no list {listed}")
    stems = read_lines(listed)
    images = {stem: root / "JPEGImages" / f"{stem}.jpg" for stem in stems}
    missing = [path for path in images.values() if not path.is_file()]
    if not images:
        raise UserError(f"--data {spec}: {listed} is empty")
    if missing:
        count = f"{len(missing)} of {len(images)} images of {listed}"
        raise UserError(f"--data {spec}: {count} do not exist, the first is {missing[0]}")
    found = find_pairs(images, root / "SegmentationClass", suffix="", skip_unlabeled=options.skip_unlabeled)
    entries = _numbered(_names_file([root]) or VOC_CLASSES)
    return FileMasks(spec, found, LabelMap(entries, options), channels=channels)


def open_pairs(
    spec: str, folders: str, split: str, channels: int, options: MaskOptions, *, hold_out: bool, problems: Problems
) -> FileMasks:
    """Opens IMAGES,MASKS: two folders with matching names; or one folder with both.

    Args:
        options: how the pixels of masks become classes.
        hold_out: hold images out for validation if the folders have no train/ and val/.
        problems: what happens with mistakes in the masks from which the classes are counted.
    """
    roots, of_split, suffix = split_places(spec, folders)
    found = {
        name: find_in(places, suffix=suffix, skip_unlabeled=options.skip_unlabeled) for name, places in of_split.items()
    }
    labels, notes = _labels_of(
        roots, tuple(dict.fromkeys(mask for part in found.values() for _, mask in part.pairs)), options, problems
    )
    notes = found[split].notes() + notes
    if found["train"].pairs == found["val"].pairs and hold_out:
        found[split] = hold_out_pairs(spec, found[split], split=split)
        notes.append(HELD_OUT_NOTE)
    source = FileMasks(spec, found[split], labels, channels=channels)
    source.notes = notes
    return source


# ------------------------------------------------------------------------------------------------------------ classes


def _labels_of(
    roots: list[Path], masks: tuple[Path, ...], options: MaskOptions, problems: Problems
) -> tuple[LabelMap, list[str]]:
    """The classes of masks, by a table of colors, names in a classes.txt, or the numbers in the masks; and notes."""
    folders = [folder for root in roots for folder in (root, Path(str(root).partition("{split}")[0]), root.parent)]
    table = find_table(folders, masks, options)
    if table is not None:
        entries = {number: (name, values) for number, (name, values) in enumerate(table.values.items())}
        return _label_map(entries, options, problems, table=table), [f"masks are read with the table {table.file}"]
    names = _names_file(folders)
    if options.binary:
        names = names or ["background", "foreground"]
        if len(names) != 2:
            raise UserError(f"binary masks have two classes, but classes.txt names {len(names)}")
        return _label_map({0: (names[0], [0]), 1: (names[1], [1, IGNORE])}, options, problems), []
    if names is not None:
        return _label_map(_numbered(["0", *names] if options.reduce_zero_label else names), options, problems), []
    return _counted(masks, options, problems)


def _counted(masks: tuple[Path, ...], options: MaskOptions, problems: Problems) -> tuple[LabelMap, list[str]]:
    """The numbers in the masks up to the largest as classes, and notes."""
    found = values_in(masks, tuple(mask.stat().st_mtime_ns for mask in masks))
    if found.damaged and not problems.collect:  # a report reads every mask again
        raise UserError(list_bad(found.damaged, len(masks), "masks"))
    ignored = {int(label) for label in options.ignore_label if str(label).isdecimal()}
    seen = found.seen
    counted = [label for label in seen if label != IGNORE and label not in ignored]
    notes = []
    if not counted or counted[-1] < 1:
        hint = (
            f"{IGNORE} occurs, and is ignored; --binary makes it the class 1" if IGNORE in seen else "label the others"
        )
        problems.add(f"masks such as {masks[0]} hold no label above 0, and a single class cannot be learned; {hint}")
    elif counted[-1] > IGNORE:
        problems.add(
            f"masks such as {masks[0]} hold {len(seen)} labels, {ranges(seen)[:200]}; without a table labels are 0 to "
            f"{IGNORE - 1}. Write a file with a line `class: number` for each, and name it with --colors"
        )
    else:
        notes = check_values(masks, found, options, problems)
    if problems.messages:  # for a report
        return LabelMap({label: (str(label), [label]) for label in counted}, options, strict=False), []
    return _label_map(_numbered([str(number) for number in range(counted[-1] + 1)]), options, problems), notes


def _label_map(
    entries: dict[int, tuple[str, list[int]]],
    options: MaskOptions,
    problems: Problems,
    *,
    table: ColorTable | None = None,
) -> LabelMap:
    """The classes of masks; for a report of any number."""
    try:
        return LabelMap(entries, options, table=table)
    except UserError as error:
        problems.add(str(error))
        return LabelMap(entries, options, table=table, strict=False)


def find_table(folders: list[Path], masks: tuple[Path, ...], options: MaskOptions) -> ColorTable | None:
    """The table that the options name, or one beside the folders if the masks are in color."""
    if options.colors is not None:
        return read_color_table(Path(options.colors).expanduser())
    if options.binary or not masks or not is_in_color(masks[0]):
        return None
    files = [folder / name for folder in folders for name in USUAL_NAMES]
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else read_color_table(file)


def _names_file(folders: list[Path]) -> list[str] | None:
    """The lines of a classes.txt in one of the folders."""
    file = next((folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()), None)
    if file is None:
        return None
    classes = read_lines(file)
    if not 2 <= len(classes) <= IGNORE:
        raise UserError(f"{file} names {len(classes)} classes; write 2 to {IGNORE} of them, one per line")
    return classes


def _numbered(names: list[str]) -> dict[int, tuple[str, list[int]]]:
    return {number: (name, [number]) for number, name in enumerate(names)}


def _without_zero(options: MaskOptions) -> MaskOptions:
    return MaskOptions(ignore_label=(0, *options.ignore_label), skip_unlabeled=options.skip_unlabeled)


FORMATS: dict[str, Callable[[str, str, str, int, MaskOptions], FileMasks]] = {"ade20k": open_ade20k, "voc": open_voc}
"""Data sets of one folder, by their names in ``--data``."""
