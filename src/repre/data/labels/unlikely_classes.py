"""Classes of images that are probably a mistake: splits or numbers taken for classes, one class written in two ways.

Every check names what was read and what changes it; `Problems.doubt` adds the option that confirms it.

    N  images    C  classes
"""

import filecmp
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.labels.problems import Problems
from repre.data.labels.splits import LabeledImages
from repre.errors import named

SPLIT_NAMES = {
    "train", "training", "trainset", "val", "valid", "validation", "dev", "test", "testing", "testset", "eval", "holdout",
}  # fmt: skip
PART_NAMES = {
    "image", "images", "img", "imgs", "jpegimages", "label", "labels", "mask", "masks", "annotation", "annotations",
    "segmentationclass", "imagesets", "depth", "depths",
}  # fmt: skip
"""Names of folders that hold a part of a data set, in lower case."""
NO_VALUE = {"nan", "null", "<na>", "#n/a", "#na"}
"""What programs write into a table where a value is missing, in lower case."""
FEW = 5
"""Fewer classes than this may have one image each."""
IMAGES_PER_ID = 1.5
"""With fewer images per class on average, the labels are probably names of the images."""
MANY_NUMBERS, IMAGES_PER_NUMBER = 100, 5
"""More whole numbers than this, with fewer images each, are probably ids or quantities."""
SMALLEST_COPY = 1024
"""Bytes below which equal files may be equal by chance, such as icons of one color."""


def check_classes(where: str, train: LabeledImages, problems: Problems) -> None:
    """Checks names and counts of the classes of training images.

    Args:
        where: the ``--data`` string or the table, for messages.
        train: the images, or all images if the data have no splits.
        problems: takes the doubts.

    Raises:
        UserError: they are doubtful, and nothing is collected or accepted.
    """
    _check_names(where, train.classes, problems)
    numbers = _numbers(train.classes)
    if numbers is None or not _check_numbers(where, train, numbers, problems):
        _check_counts(where, train, problems)


def _check_names(where: str, classes: Sequence[str], problems: Problems) -> None:
    lower = {name.casefold() for name in classes}
    if lower <= SPLIT_NAMES | PART_NAMES:
        kinds = "splits" if lower <= SPLIT_NAMES else "parts of a data set"
        problems.doubt(
            f"{where}: the classes would be {named(classes)}, which are usual names of {kinds}. Name a folder whose folders "
            "are classes; if it has splits, call them train and val (or test)"
        )
    for same in _groups(classes):
        problems.doubt(
            f"{where}: {named(map(repr, same))} differ only in case or blanks, and would be {len(same)} classes; write "
            "them in one way"
        )
    if missing := [name for name in classes if name.casefold() in NO_VALUE]:
        problems.doubt(
            f"{where}: the class {missing[0]!r} is what programs write where a value is missing; remove its images, or "
            "write their labels"
        )


def _groups(classes: Iterable[str]) -> list[list[str]]:
    """Names that differ only in case, blanks or the way their characters are composed."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        composed = unicodedata.normalize("NFC", name)
        text = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", composed).strip()
        groups[composed if len(text) < 2 else text.casefold()].append(name)  # letters in two cases are two classes
    return [group for group in groups.values() if len(group) > 1]


def _numbers(classes: Iterable[str]) -> list[float] | None:
    """The classes as finite numbers; None unless all are."""
    try:
        numbers = [float(name) for name in classes]
    except ValueError:
        return None
    return numbers if all(np.isfinite(numbers)) else None


def _check_numbers(where: str, train: LabeledImages, numbers: list[float], problems: Problems) -> bool:
    """Whether something about numbers as classes is doubtful."""
    low, high = min(numbers), max(numbers)
    first = named(sorted(train.classes, key=float), most=4)
    read = f"{where}: the labels are {len(numbers)} different numbers from {low:g} to {high:g} ({first})"
    if any(number != int(number) for number in numbers):
        problems.doubt(
            f"{read}, not all of them whole. They would be {len(numbers)} classes without an order; quantities are not "
            "learned here (no regression). Write classes, such as ranges of the numbers, as labels"
        )
        return True
    if low < 0:
        problems.doubt(
            f"{read}. A number below 0 usually means that an image has no label; remove these images, or write names of "
            "classes as labels"
        )
        return True
    if len(numbers) > MANY_NUMBERS and len(train) < IMAGES_PER_NUMBER * len(numbers):
        problems.doubt(
            f"{read}, for {len(train)} images: these look like ids or quantities, not classes. Write classes as labels"
        )
        return True
    return False


def _check_counts(where: str, train: LabeledImages, problems: Problems) -> None:
    if len(train.classes) >= FEW and len(train) < IMAGES_PER_ID * len(train.classes):
        problems.doubt(
            f"{where}: {len(train)} training images have {len(train.classes)} classes ({named(train.classes, most=4)}); "
            "nearly every image is a class of its own, so these look like names of images. Write classes as labels"
        )


def check_copies(parts: dict[str, LabeledImages], problems: Problems) -> list[str]:
    """Finds images that stand in two classes, which is doubtful, or in training and test images, which is noted.

    Files of one name and size are compared, if they are on this machine; so the search is fast, and not complete.

    Args:
        parts: images by the name of their split.
        problems: takes the doubts.

    Returns:
        Notes, a sentence each.

    Raises:
        UserError: an image has two classes, and nothing is collected or accepted.
    """
    conflicts: list[str] = []
    shared: list[str] = []
    seen: dict[tuple[str, int], list[tuple[str, str, int]]] = defaultdict(list)
    for path, split, label in _files_of_one_name(parts):
        if (size := _size(path)) < SMALLEST_COPY:
            continue
        same_size = seen[os.path.basename(path), size]
        for other, other_split, other_label in same_size:
            if (split, label) != (other_split, other_label) and _same(path, other):
                (shared if label == other_label else conflicts).append(f"{other} and {path}")
                break
        same_size.append((path, split, label))
    if conflicts:
        problems.doubt(
            f"{len(conflicts)} images are in two classes; {named(conflicts, most=3)} have the same content. Keep each "
            "in one class"
        )
    if shared:
        return [f"{len(shared)} images are in two splits, so the metric is too high: {named(shared, most=2)}"]
    return []


def _files_of_one_name(parts: dict[str, LabeledImages]) -> Iterator[tuple[str, str, int]]:
    """Path, split and class of the files on this machine whose name occurs several times."""
    local = [
        (split, images, images.source.files)
        for split, images in parts.items()
        if isinstance(images.source, FileSource)
        and isinstance(images.source.files, LocalFiles)
        and not images.multilabel
    ]
    hashes = np.array(
        [hash(os.path.basename(files.names[i])) for _, images, files in local for i in images.indices.tolist()],
        np.int64,
    )
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    several = iter((counts[inverse] > 1).tolist())
    for split, images, files in local:
        for index, label in zip(images.indices.tolist(), images.targets.tolist()):
            if next(several):
                yield str(files.path(index)), split, label


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def _same(path: str, other: str) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False
