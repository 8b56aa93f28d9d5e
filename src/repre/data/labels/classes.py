"""What a ``--data`` string means if images have labels: training, validation and test images with their classes.

photos/                 train/ and val/ (or test/) with class folders; or class folders alone, then a share is held out;
                        likewise archives (shards/{0000..0099}.tar) and addresses (s3://bucket/photos)
hf:NAME, hf:FOLDER      a data set of Hugging Face with a column of classes, and its splits
csv:labels.csv          a table with the columns path, label and optionally split (train, val, test)
cifar10:ROOT            likewise cifar100, stl10, fashion-mnist, imagenet; with their own training and test images
scenes:COUNT:SIZE       embedded scenes; half as many others, at most 2000, to test
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.archives import archives_alone
from repre.data.io.folder_index import is_hidden
from repre.data.io.hub_data import is_saved_data_set
from repre.data.io.image_files import Decoding, FileSource, class_labels
from repre.data.io.joined_files import ChosenFiles
from repre.data.io.local_files import check_readable
from repre.data.io.names import Names
from repre.data.io.sources import check_data, open_source
from repre.data.io.torchvision_sets import DATA_SETS, ArraySource
from repre.data.labels.label_tables import SPLITS, WHOLE, read_table
from repre.data.labels.problems import Problems
from repre.data.labels.same_images import same_images
from repre.data.labels.splits import HELD_OUT, LabeledImages, hold_out, source_identity
from repre.data.labels.unlikely_classes import check_classes, check_copies
from repre.data.scenes import Scenes
from repre.errors import UserError, named

Array = np.ndarray


@dataclass(frozen=True)
class LabeledSplits:
    """Labeled data to train, choose and test on.

    Attributes:
        train, test: the images and their targets.
        classes: names of the C classes.
        multilabel: whether an image may have several labels; targets are then matrices [N, C] of 0 and 1.
        val: validation images of the data; None if they have none.
        test_set: description of where the test images come from.
        notes: what a user should know of the data, a sentence each.
    """

    train: LabeledImages
    test: LabeledImages
    classes: list[str]
    multilabel: bool
    val: LabeledImages | None = None
    test_set: str = ""
    notes: tuple[str, ...] = ()

    def details(self) -> dict[str, Any]:
        """Plain values for a result."""
        counts = {"train_images": len(self.train), "test_images": len(self.test)}
        about = {"classes": len(self.classes), "multilabel": self.multilabel, "test_set": self.test_set}
        return {**counts, **about, "data_identity": self.identity(), "notes": list(self.notes)}

    def identity(self) -> str:
        """A hash of which images and labels these are; the same whatever size they are decoded to."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for part in (self.train, self.val, self.test):
            if part is not None:
                digest.update(source_identity(part.source, part.indices, decoded=False).encode())
                digest.update(part.targets.tobytes())
        return digest.hexdigest()[:16]


def open_labeled(
    spec: str,
    *,
    test: str | None = None,
    channels: int = 3,
    canvas: int | None = None,
    raw_values: bool = False,
    holdout: float = HELD_OUT,
    problems: Problems | None = None,
) -> LabeledSplits:
    """Opens labeled data; see the top of this file.

    Args:
        spec: a ``--data`` string.
        test: other data to test on, of the same classes; None uses the test images of `spec`.
        channels, canvas, raw_values: see `open_source`.
        holdout: share of every class that is held out if the data have no test images.
        problems: takes doubts about the labels, and collects them; None raises the first one.

    Raises:
        UserError: the data do not exist, have no labels, or something in them is wrong; names file and line.
    """
    problems = problems or Problems()
    check_data(spec if test is None else [spec, test])
    decoding = Decoding(channels=channels, canvas=canvas, raw_values=raw_values)
    parts = _open(spec, decoding, problems)
    first = next(iter(parts.values()))
    if not isinstance(first.source, Scenes | ArraySource):
        check_classes(f"--data {spec}", first, problems)
    notes = check_copies(parts, problems)
    val = parts.get("val")
    if test is not None:
        train = parts.get("train") or parts[WHOLE]
        others = _open(test, decoding, problems, like=train)
        split = next(split for split in ("test", "val", WHOLE, "train") if split in others)
        tested, test_set = others[split], test if split == WHOLE else f"{split} of {test}"
        notes += same_images(train.identity(), tested.identity())
    elif "test" in parts or val is not None:
        train = parts["train"]
        tested, test_set, val = (parts["test"], "test", val) if "test" in parts else (parts["val"], "val", None)
    else:
        whole = parts.get(WHOLE) or parts["train"]
        _check_single_images(spec, whole, problems)
        kept, held_out = hold_out(whole.targets, holdout, seed=0)
        train, tested = whole.take(kept), whole.take(held_out)
        test_set = f"{holdout:.0%} of every class, held out by a fixed draw"
    notes += _absent(tested)
    return LabeledSplits(train, tested, train.classes, train.multilabel, val, test_set, tuple(notes))


def _absent(test: LabeledImages) -> list[str]:
    """Which classes have no test images."""
    counts = test.targets.sum(0) if test.multilabel else np.bincount(test.targets, minlength=len(test.classes))
    names = [name for name, count in zip(test.classes, counts) if not count]
    if not names:
        return []
    return [
        f"{len(names)} of {len(test.classes)} classes have no test image, and no metric of their own: {named(names)}"
    ]


def _open(
    spec: str, decoding: Decoding, problems: Problems, *, like: LabeledImages | None = None
) -> dict[str, LabeledImages]:
    """The splits of labeled data by name. If `like` is given, they must have the classes of those training images."""
    path, (name, _, rest) = Path(spec).expanduser(), spec.partition(":")
    if name == "csv" and not path.exists():
        return read_table(spec, Path(rest).expanduser(), decoding, problems, like=like)
    if spec.endswith((".csv", ".txt")):
        raise UserError(f"--data {spec} is not a folder; for a table of paths and labels write csv:{spec}")
    if path.is_dir():
        check_readable(path)
    if name == "imagenet" or (path.is_dir() and not is_saved_data_set(path) and not archives_alone(path)):
        root = path if path.is_dir() else Path(rest).expanduser()
        parts = {split: _class_folders(folder, decoding) for split, folder in _split_folders(root).items()}
    elif name in ("scenes", *DATA_SETS):
        parts = _data_set(spec, decoding)
    else:
        parts = _files(spec, decoding)
    train = like or next(iter(parts.values()))
    return {split: _with_classes_of(train, part, problems) for split, part in parts.items()}


def _data_set(spec: str, decoding: Decoding) -> dict[str, LabeledImages]:
    name = spec.partition(":")[0]
    split = "labeled" if name == "stl10" else "train"  # STL-10 has unlabeled training images, too
    train = open_source(spec, split=split, **decoding)
    if isinstance(train, Scenes):
        test: Any = train.held_out()
    else:
        test = open_source(spec, split="val", **decoding)
    parts = {}
    for part, source in (("train", train), ("test", test)):
        labels = source.labels
        assert labels is not None, spec
        if len(labels) != len(source):
            raise UserError(
                f"--data {spec}: {len(source)} {part} images, but {len(labels)} labels; download the files again"
            )
        unknown = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
        if len(unknown):
            first = f"{part} label {labels[unknown[0]]} of {source.describe(int(unknown[0]))}"
            raise UserError(
                f"--data {spec}: {first} is not one of the {len(source.classes)} classes; download the files again"
            )
        parts[part] = LabeledImages(source, labels, classes=source.classes)
    return parts


# ----------------------------------------------------------------------------------------- archives, hubs and addresses


def _files(spec: str, decoding: Decoding) -> dict[str, LabeledImages]:
    """Data whose files bring their classes; folders train/, val/ and test/ in them are splits."""
    if spec.startswith("hf:") or is_saved_data_set(Path(spec).expanduser()):
        return _hub(spec, decoding)
    source = open_source(spec, split=WHOLE, **decoding)
    assert isinstance(source, FileSource), spec
    if source.labels is None:
        raise UserError(
            f"--data {spec} has no labels; name class folders, csv:FILE, hf:NAME or a labeled data set. In "
            f"archives, too, the first folders are classes, at least two: the first image is {source.files.names[0]!r}"
        )
    if "train" not in source.classes or not set(source.classes) <= set(SPLITS):
        return {WHOLE: LabeledImages(source, source.labels, classes=source.classes)}
    parts = {}
    for split in source.classes:
        numbers = np.flatnonzero(source.labels == source.classes.index(split))
        names = Names.of(_below(source.files.names[number], split) for number in numbers.tolist())
        counts = np.bincount(np.searchsorted(np.cumsum(source.files.counts), numbers, side="right"))
        files = ChosenFiles(source.files, names, numbers, counts.tolist())
        labels, classes = class_labels(files)
        if labels is None:
            raise UserError(f"--data {spec}: the images of {split}/ are not in class folders, at least two")
        parts[split] = LabeledImages(FileSource(spec, files, **decoding), labels, classes=classes)
    return parts


def _below(name: str, split: str) -> str:
    """The rest of a path after its first folder of that name."""
    parts = name.split("/")
    return "/".join(parts[parts.index(split) + 1 :])


def _hub(spec: str, decoding: Decoding) -> dict[str, LabeledImages]:
    from repre.data.io.hub_files import hub_splits

    parts = {}
    for split, exact in hub_splits(spec).items():
        source = open_source(exact, **decoding)
        if source.labels is None:
            raise UserError(f"--data {spec} has one class only; at least two are needed")
        parts[split or WHOLE] = LabeledImages(source, source.labels, classes=source.classes)
    return parts


# -------------------------------------------------------------------------------------------------------- class folders


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits below `root`, or `root` itself if its folders are classes."""
    if not root.is_dir():
        raise UserError(f"--data: there is no folder {root}")
    splits = {split: root / split for split in SPLITS if (root / split).is_dir()}
    only_train = [folder.name for folder in _folders(root)] == ["train"]
    return splits if "train" in splits and (len(splits) > 1 or only_train) else {WHOLE: root}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def _class_folders(root: Path, decoding: Decoding) -> LabeledImages:
    names = [folder.name for folder in _folders(root)]
    if len(names) < 2:
        content = f"holds only {names[0]}/" if names else "holds none"
        raise UserError(f"--data {root}: labels are the names of folders, at least two, and this one {content}")
    source = open_source(str(root), **decoding)
    assert isinstance(source, FileSource), root
    top_level: dict[str, int] = {}  # entries of `root` with an image that they hold or are; only if something is wrong
    if source.labels is None:
        top_level = {name.partition("/")[0]: index for index, name in enumerate(source.files.names)}
    loose = next((index for name, index in top_level.items() if name not in names), None)
    if loose is not None:
        raise UserError(f"--data: {source.describe(loose)} is next to the class folders; move it into one of them")
    empty = [name for name in names if name not in (source.classes or top_level)]
    if empty:
        raise UserError(
            f"--data: no images in the class folder {root / empty[0]}{_content(root / empty[0])}; fill it or remove it"
        )
    assert source.labels is not None, root
    return LabeledImages(source, source.labels, classes=source.classes)


def _content(folder: Path) -> str:
    """What a folder without images holds, for a message."""
    endings = Counter(path.suffix.lower() or "no ending" for path in folder.rglob("*") if path.is_file())
    return f" ({', '.join(f'{count} of {ending}' for ending, count in endings.most_common(3))})" if endings else ""


def _with_classes_of(train: LabeledImages, part: LabeledImages, problems: Problems) -> LabeledImages:
    """The images of a part with the classes of the training images, of which some may be absent if the user accepts it."""
    if part.classes == train.classes and part.multilabel == train.multilabel:
        return part
    if part.multilabel != train.multilabel:
        raise UserError(f"--test {part.spec} and --data {train.spec}: only one of them has several labels per image")
    absent, unknown = (
        sorted(set(a) - set(b)) for a, b in ((train.classes, part.classes), (part.classes, train.classes))
    )
    lists = [(train.spec, absent), (part.spec, unknown)]
    difference = "; ".join(f"only in {where}: {named(names, most=10)}" for where, names in lists if names)
    message = f"training and test images have different classes ({difference}); give their folders the same names"
    if unknown:
        raise UserError(message)
    problems.doubt(message)
    return part.with_classes(train.classes)


def _check_single_images(spec: str, whole: LabeledImages, problems: Problems) -> None:
    counts = whole.targets.sum(0) if whole.multilabel else np.bincount(whole.targets, minlength=len(whole.classes))
    few = [name for name, count in zip(whole.classes, counts) if count < 2]
    if few:
        message = (
            f"--data {spec}: no test image can be held out of {named(few, most=5)}, which has only one; add images, or "
            "name test data with --test"
        )
        if len(few) == len(whole.classes):
            raise UserError(message)
        problems.doubt(message)
