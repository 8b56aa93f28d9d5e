"""Finds masks and other label images among images: by their names, confirmed by the content of a few of them.

Names alone are looked at first, and of long lists a sample, so that it costs next to nothing where there are none. A group
of files counts as labels if its names belong to other images (masks/a.png to images/a.jpg, a_mask.png to a.jpg, a.png to
a.jpg) and its content is that of labels: few flat colors, or one channel beside images of three.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from repre.data.io.decode import read_image
from repre.data.io.image_files import Files, LabelImages
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.names import Names
from repre.utils.evenly_spaced import evenly_spaced

Array = np.ndarray

WINDOWS, WINDOW = 200, 100
"""Names that are looked at first: so many runs of so many, one after another, as names of one image are neighbors."""
OPENED = 6
"""Files of a group that are opened."""
SIDE = 512
"""Largest side of the middle part of an image that is looked at."""
FLAT, MAX_COLORS = 0.7, 256
"""Labels have at most so many colors, and at least this share of their pixels equals the next one in the row."""
AGREE = 0.8
"""Share of the files of a group that must look like labels, and of their names that must belong to other images."""
WORDS = (
    "masks?|labels?|annotations?|annots?|segs?|segmentations?|segmentationclass(?:aug|raw)?|segmentationobject|gt|gtfine|"
    "gtcoarse|ground[_-]?truths?|trimaps?|semantics?|instances?|panoptic|parsing|mattes?|depths?|disparity"
)
FOLDER = re.compile(rf"(?:.*[_ -])?(?:{WORDS})(?:[_ -].*)?|.*(?:annot|mask|masks|labels)", re.IGNORECASE)
"""A folder of labels."""
SUFFIXES = frozenset(
    (
        *("mask", "masks", "label", "labels", "labelids", "labeltrainids", "instanceids", "instancetrainids", "seg"),
        *("segmentation", "gt", "groundtruth", "annotation", "trimap", "matte", "depth", "l"),
    )
)
"""What follows the name of an image after a separator, for its labels (CamVid's _L, Cityscapes' _gtFine_labelIds)."""
SEPARATORS = "_.- "
FAMILIES = ("_gtfine", "_gtcoarse")
"""What may stand before such a suffix."""
PREFIX = re.compile(r"(?:masks?|labels?|gt|seg|annotation|depth)[_-]?(.+)", re.IGNORECASE)
IMAGE_SUFFIXES = ("", "_leftimg8bit", "_rgb", "_image", "_img", "_sat", "_color", "_im")
IMAGE_PREFIXES = ("", "image", "image_", "img", "img_", "rgb_", "image-", "img-")
IMAGE_FOLDERS = (
    "images",
    "image",
    "imgs",
    "img",
    "jpegimages",
    "leftimg8bit",
    "photos",
    "rgb",
    "inputs",
    "input",
    "frames",
)
LABEL_ENDINGS = ("png", "gif", "bmp", "tif", "tiff", "npy", "pgm")
"""Endings of labels that have the whole name of an image with another ending."""


class _Name(NamedTuple):
    folder: str
    stem: str
    ending: str


def find_label_images(files: Files) -> list[LabelImages]:
    """The groups of masks and other label images among files, each file in one group at most; no group takes all files."""
    candidates = {group for group, _ in _grouped(_sample(files.names)) if group}
    if not candidates:
        return []
    members = {group: array("q") for group in sorted(candidates)}
    in_folders_alone = all(group.endswith("/*") for group in candidates)
    for number, group in enumerate(_folder_groups(files.names) if in_folders_alone else _all_groups(files.names)):
        if group in candidates:
            members[group].append(number)
    groups = {group: np.array(numbers, np.int64) for group, numbers in members.items()}
    found = []
    for group in _named_after_others(files.names, groups):
        numbers, others = groups[group], np.ones(len(files), bool)
        others[numbers] = False
        looks = _looks(files, numbers)
        colored = any(look.colored for look in _looks(files, np.flatnonzero(others)))
        if looks and np.mean([look.flat or (colored and not look.colored) for look in looks]) >= AGREE:
            found.append(LabelImages(group, numbers))
    return found if sum(len(group.numbers) for group in found) < len(files) else []


# ------------------------------------------------------------------------------------------------------------ by names


def _sample(names: Names) -> Iterator[str]:
    """All names of a short list; of a long one, runs of neighbors that are spread evenly."""
    if len(names) <= WINDOWS * WINDOW:
        yield from names
        return
    for start in np.linspace(0, len(names) - WINDOW, WINDOWS).astype(np.int64).tolist():
        yield from names.between(start, start + WINDOW)


def _grouped(names: Iterable[str]) -> Iterator[tuple[str, _Name]]:
    """The group of labels that every name may belong to, or an empty text, and the name in its parts."""
    known: dict[str, str] = {}
    before: tuple[str, _Name] | None = None
    for text in names:
        name = _split(text)
        bare = _without_suffix(name.stem)
        if bare is not None:
            group = f"*{name.stem[len(bare) :]}.{name.ending}"
        else:
            if name.folder not in known:
                known[name.folder] = _label_folder(name.folder)
            group = known[name.folder]
        if before is not None:
            other = before[1]
            if not group and not before[0] and name[:2] == other[:2] and name.ending != other.ending:
                # a.jpg, then a.png: one of them may be the mask of the other
                if name.ending in LABEL_ENDINGS and other.ending not in LABEL_ENDINGS:
                    group = f"*.{name.ending}"
                elif other.ending in LABEL_ENDINGS and name.ending not in LABEL_ENDINGS:
                    before = f"*.{other.ending}", other
            yield before
        before = group, name
    if before is not None:
        yield before


def _all_groups(names: Names) -> Iterator[str]:
    return (group for group, _ in _grouped(names))


def _folder_groups(names: Names) -> Iterator[str]:
    """As `_grouped`, by the folders alone: much faster where there are millions of names."""
    known: dict[str, str] = {}
    for text in names:
        folder = text[: max(text.rfind("/"), 0)]
        if folder not in known:
            known[folder] = _label_folder(folder)
        yield known[folder]


def _split(text: str) -> _Name:
    folder, _, base = text.rpartition("/")
    stem, dot, ending = base.rpartition(".")
    return _Name(folder, stem, ending.lower()) if dot else _Name(folder, base, "")


def _without_suffix(stem: str) -> str | None:
    """The name of the image, of a name with one of `SUFFIXES`; None of other names."""
    end = max(map(stem.rfind, SEPARATORS))
    if end < 1 or stem[end + 1 :].lower() not in SUFFIXES:
        return None
    bare = stem[:end]
    return next((bare[: -len(family)] for family in FAMILIES if bare.lower().endswith(family)), bare)


def _label_folder(folder: str) -> str:
    """The pattern of the files in a folder named like labels; empty if there is none, or one of images follows."""
    parts = folder.split("/")
    for number in reversed(range(len(parts))):
        if parts[number].lower() in IMAGE_FOLDERS:
            return ""
        if FOLDER.fullmatch(parts[number]):
            return f"{parts[number]}/*"
    return ""


def _named_after_others(names: Names, groups: dict[str, Array]) -> list[str]:
    """The groups whose files are named after files outside of the group, or lie in a folder beside one of images."""
    samples = {
        group: [_split(names[number].lower()) for number in numbers[evenly_spaced(len(numbers), WINDOW)].tolist()]
        for group, numbers in groups.items()
    }
    wanted = {form for sample in samples.values() for name in sample for form in _forms(name.stem)}
    beside = {folder for sample in samples.values() for name in sample for folder in _image_folders(name.folder)}
    numbered = {group: number for number, group in enumerate(groups, 1)}
    group_of = np.zeros(len(names), np.int32)
    for group, numbers in groups.items():
        group_of[numbers] = numbered[group]
    stems: dict[str, set[int]] = {}
    folders: set[str] = set()
    last = None
    for number, text in enumerate(names):  # the only step for every name, so it does little
        slash = text.rfind("/")
        stem = text[slash + 1 :].rpartition(".")[0].lower()
        if stem in wanted:
            stems.setdefault(stem, set()).add(int(group_of[number]))
        if text[: max(slash, 0)] != last:
            last = text[: max(slash, 0)]
            if last.lower() in beside:
                folders.add(last.lower())

    def belongs(group: str, name: _Name) -> bool:
        return any(stems.get(form, set()) - {numbered[group]} for form in _forms(name.stem)) or not folders.isdisjoint(
            _image_folders(name.folder)
        )

    return [
        group
        for group, sample in samples.items()
        if sum(belongs(group, name) for name in sample) >= AGREE * len(sample)
    ]


def _forms(stem: str) -> set[str]:
    """The names that the image of a label file may have, in lower case."""
    bare = {stem}
    if (image := _without_suffix(stem)) is not None:
        bare.add(image)
    if match := PREFIX.fullmatch(stem):
        bare |= {prefix + match[1] for prefix in IMAGE_PREFIXES}
    return {one + suffix for one in bare for suffix in IMAGE_SUFFIXES}


def _image_folders(folder: str) -> set[str]:
    """The folders of images beside a folder of labels."""
    parts = folder.split("/")
    return {
        "/".join([*parts[:number], images, *parts[number + 1 :]])
        for number, part in enumerate(parts)
        if FOLDER.fullmatch(part)
        for images in IMAGE_FOLDERS
    }


# ---------------------------------------------------------------------------------------------------------- by content


class Look(NamedTuple):
    """How an image looks."""

    flat: bool
    """Few colors in large areas."""
    colored: bool
    """Not gray."""


def _looks(files: Files, numbers: Array) -> list[Look]:
    """How some of the files look, without those that cannot be read."""
    looks = []
    for number in numbers[evenly_spaced(len(numbers), OPENED)].tolist():
        try:
            with files.open(number) as file:
                looks.append(look_at(read_image(file, name=files.names[number])))
        except (UnreadableImage, OSError) as error:
            if "values of type" in str(error):  # of integers that no image has
                looks.append(Look(flat=True, colored=False))
    return looks


def look_at(image: Array) -> Look:
    """Whether an image [H, W, C] looks like labels, and whether it is gray; its middle is looked at."""
    top, left = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
    image = image[top : top + SIDE, left : left + SIDE]
    same = (image[:, 1:] == image[:, :-1]).all(axis=2)
    colors = len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) if same.mean() >= FLAT else MAX_COLORS + 1
    return Look(
        flat=colors <= MAX_COLORS,
        colored=bool((image != image[..., :1]).any()),
    )
