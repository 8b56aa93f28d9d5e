"""What a ``--data`` string means where images have labels: training, validation and test images with their classes.

photos/                 train/ and val/ (or test/) of class folders; or class folders alone, of which a share is held out
csv:labels.csv          a table with the columns path, label and, if wanted, split (train, val, test)
cifar10:ROOT            cifar100, stl10, fashion-mnist, imagenet alike: their own training and test images
scenes:COUNT:SIZE       embedded scenes; half as many others, at most 2000, to test
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.folders import FileSource
from repre.data.io.sources import open_source
from repre.data.io.torchvision_sets import DATA_SETS
from repre.data.labels.splits import LabeledImages, hold_out
from repre.data.scenes import Scenes
from repre.errors import UserError, near_names

Array = np.ndarray

SPLITS = ("train", "val", "test")
WHOLE = "whole"
"""Name of the only part of data that are not split."""
HELD_OUT = 0.2
"""Share of every class that is held out where the data have no test images; whatever the seed of an evaluation."""
SEPARATORS = ";|"


@dataclass(frozen=True)
class LabeledSplits:
    """Labeled data to train, choose and test on.

    Attributes:
        train, test: the images and their targets.
        classes: names of the classes.
        multilabel: whether an image may have several; then targets are 0/1 matrices [N, C].
        val: validation images that the data brings along; None where there are none.
        test_set: where the test images come from, in words.
    """

    train: LabeledImages
    test: LabeledImages
    classes: list[str]
    multilabel: bool
    val: LabeledImages | None = None
    test_set: str = ""

    def details(self) -> dict[str, Any]:
        """Plain values for a result."""
        counts = {"train_images": len(self.train), "test_images": len(self.test)}
        return {**counts, "classes": len(self.classes), "multilabel": self.multilabel, "test_set": self.test_set}


def open_labeled(
    spec: str, *, test: str | None = None, channels: int = 3, canvas: int | None = None, holdout: float = HELD_OUT
) -> LabeledSplits:
    """Opens labeled data; see the head of this file.

    Args:
        spec: what --data says.
        test: other data to test on, of the same classes; None takes those of `spec`.
        channels, canvas: as `open_source` takes them.
        holdout: share of every class that is held out where the data have no test images.

    Raises:
        UserError: there is no such thing, it has no labels, or something in it is wrong: named by file and line.
    """
    parts = _open(spec, channels=channels, canvas=canvas)
    val = parts.get("val")
    if test is not None:
        train = parts.get("train") or parts[WHOLE]
        others = _open(test, channels=channels, canvas=canvas, like=train)
        tested, words = next((others[s], f"{s} of {test}") for s in ("test", "val", WHOLE, "train") if s in others)
        words = test if words.startswith(WHOLE) else words
    elif "test" in parts or val is not None:
        train = parts["train"]
        tested, words, val = (parts["test"], "test", val) if "test" in parts else (parts["val"], "val", None)
    else:
        whole = parts.get(WHOLE) or parts["train"]
        _refuse_single_images(spec, whole)
        kept, held = hold_out(whole.targets, holdout, seed=0)
        train, tested, words = whole.take(kept), whole.take(held), f"{holdout:.0%} of every class, held out"
    return LabeledSplits(train, tested, train.classes, train.multilabel, val, words)


def _open(
    spec: str, *, channels: int, canvas: int | None, like: LabeledImages | None = None
) -> dict[str, LabeledImages]:
    """The parts of labeled data by name; `like` are the training images whose classes they must have."""
    path, (name, _, rest) = Path(spec).expanduser(), spec.partition(":")
    if name == "csv" and not path.exists():
        return _read_table(spec, Path(rest).expanduser(), channels=channels, canvas=canvas, like=like)
    if path.is_file() or spec.endswith(".csv"):
        raise UserError(f"--data {spec} is not a folder; for a table of paths and labels write csv:{spec}")
    if path.is_dir() or name == "imagenet":
        root = path if path.is_dir() else Path(rest).expanduser()
        found = {split: _class_folders(folder, channels, canvas) for split, folder in _split_folders(root).items()}
    else:
        found = _data_set(spec, channels=channels, canvas=canvas)
    first = like or next(iter(found.values()))
    for part in found.values():
        _check_classes(first, part)
    return found


def _data_set(spec: str, *, channels: int, canvas: int | None) -> dict[str, LabeledImages]:
    name = spec.partition(":")[0]
    split = "labeled" if name == "stl10" else "train"  # STL-10 has unlabeled training images, too
    train = open_source(spec, split=split, channels=channels, canvas=canvas)
    if isinstance(train, Scenes):
        test: Any = train.held_out()
    elif name in DATA_SETS:
        test = open_source(spec, split="val", channels=channels, canvas=canvas)
    else:
        raise UserError(f"--data {spec} has no labels; name class folders, csv:FILE or a labeled data set")
    parts = {}
    for part, source in (("train", train), ("test", test)):
        labels = source.labels
        assert labels is not None, spec
        if len(labels) != len(source):
            raise UserError(f"--data {spec}: {len(source)} {part} images, but {len(labels)} labels; get the files anew")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
        if len(wrong):
            where = f"{part} label {labels[wrong[0]]} of {source.describe(int(wrong[0]))}"
            raise UserError(f"--data {spec}: {where} is none of the {len(source.classes)} classes; get the files anew")
        parts[part] = LabeledImages(source, labels, classes=source.classes)
    return parts


# -------------------------------------------------------------------------------------------------------- class folders


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits below `root`, or `root` itself where its folders are classes."""
    if not root.is_dir():
        raise UserError(f"--data: there is no folder {root}")
    inside = {split: root / split for split in SPLITS if (root / split).is_dir()}
    alone = [folder.name for folder in _folders(root)] == ["train"]
    return inside if "train" in inside and (len(inside) > 1 or alone) else {WHOLE: root}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(root: Path, channels: int, canvas: int | None) -> LabeledImages:
    names = [folder.name for folder in _folders(root)]
    if len(names) < 2:
        held = f"holds only {names[0]}/" if names else "holds none"
        raise UserError(f"--data {root}: labels are the names of folders, at least two, and this one {held}")
    source = open_source(str(root), channels=channels, canvas=canvas)
    assert isinstance(source, FileSource)
    tops: dict[str, int] = {}  # what lies in `root`, with an image in it or that it is; only where something is wrong
    if source.labels is None:
        tops = {source.path(index).relative_to(root).parts[0]: index for index in range(len(source))}
    loose = next((index for top, index in tops.items() if top not in names), None)
    if loose is not None:
        raise UserError(f"--data: {source.describe(loose)} lies beside the class folders; move it into its class")
    empty = [name for name in names if name not in (source.classes or tops)]
    if empty:
        raise UserError(f"--data: no images in the class folder {root / empty[0]}; fill it or remove it")
    assert source.labels is not None, root
    return LabeledImages(source, source.labels, classes=source.classes)


def _check_classes(train: LabeledImages, part: LabeledImages) -> None:
    if part.classes == train.classes and part.multilabel == train.multilabel:
        return
    if part.multilabel != train.multilabel:
        raise UserError(f"--test {part.spec} and --data {train.spec}: only one of them has several labels per image")
    lists = [
        (train.spec, sorted(set(train.classes) - set(part.classes))),
        (part.spec, sorted(set(part.classes) - set(train.classes))),
    ]
    words = "; ".join(
        f"only in {where}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        for where, names in lists
        if names
    )
    raise UserError(f"training and test images have different classes ({words}); name their folders alike")


def _refuse_single_images(spec: str, whole: LabeledImages) -> None:
    counts = whole.targets.sum(0) if whole.multilabel else np.bincount(whole.targets, minlength=len(whole.classes))
    few = [name for name, count in zip(whole.classes, counts) if count < 2]
    if few:
        raise UserError(
            f"--data {spec}: no test image can be held out of {', '.join(few[:5])}, which has a single one; "
            "add images, or name test data with --test"
        )


# ------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    labels: list[str]
    split: str


def _read_table(
    spec: str, file: Path, *, channels: int, canvas: int | None, like: LabeledImages | None
) -> dict[str, LabeledImages]:
    rows = _rows(file)
    several = any(len(row.labels) > 1 for row in rows) or (like is not None and like.multilabel)
    splits = [split for split in (*SPLITS, WHOLE) if any(row.split == split for row in rows)]
    if splits[0] not in ("train", WHOLE) and like is None:
        raise UserError(f"{file}: no row has the split train")
    known = like.classes if like else sorted({x for row in rows if row.split == splits[0] for x in row.labels})
    if len(known) < 2 and not several:
        raise UserError(f"{file}: one class only, {known[0]}; at least two are needed")
    place = {name: number for number, name in enumerate(known)}
    for row in rows:
        for label in row.labels:
            if label not in place:
                near = near_names(label, known)
                raise UserError(f"{file} line {row.line}: no training image has the label {label!r}{near}")
    parts = {}
    for split in splits:
        mine = [row for row in rows if row.split == split]
        source = FileSource(spec, file.parent, [row.path for row in mine], channels=channels, canvas=canvas)
        if several:
            targets = np.zeros((len(mine), len(known)), np.float32)
            for number, row in enumerate(mine):
                targets[number, [place[label] for label in row.labels]] = 1
        else:
            targets = np.array([place[row.labels[0]] for row in mine], np.int64)
        parts[split] = LabeledImages(source, targets, classes=known)
    return parts


def _rows(file: Path) -> list[_Row]:
    """The rows of a table, every cell checked."""
    if not file.is_file():
        beside = [p.name for p in file.parent.glob("*.csv")] if file.parent.is_dir() else []
        raise UserError(f"--data: there is no table {file}{near_names(file.name, beside)}")
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            _check_columns(file, columns)
            reader.fieldnames = columns
            rows = [_row(file, reader.line_num, cells, columns) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a table in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{file} has no rows below its header")
    seen: dict[str, int] = {}
    for row in rows:
        if row.path in seen:
            raise UserError(
                f"{file} line {row.line}: {row.path} was named in line {seen[row.path]} already; name every image once, "
                "several labels in one cell with ; between them"
            )
        seen[row.path] = row.line
    return rows


def _check_columns(file: Path, columns: list[str]) -> None:
    for name in ("path", "label"):
        if name not in columns:
            found = f"line 1 has {', '.join(columns)}" if columns else "it is empty"
            raise UserError(
                f"{file}: no column {name!r} ({found}){near_names(name, columns)}; write the header path,label,split"
            )
    twice = [name for name in ("path", "label", "split") if columns.count(name) > 1]
    if twice:
        raise UserError(f"{file} line 1: two columns are called {twice[0]!r}")


def _row(file: Path, line: int, cells: dict[Any, Any], columns: list[str]) -> _Row:
    if None in cells:
        raise UserError(f"{file} line {line}: more cells than the header has columns; put commas inside quotes")
    path, label = (str(cells[name] or "").strip() for name in ("path", "label"))
    if not path:
        raise UserError(f"{file} line {line}: the path is empty")
    if not (file.parent / path).is_file():
        raise UserError(f"{file} line {line}: there is no image {file.parent / path}")
    labels = [word.strip() for word in label.replace(SEPARATORS[1], SEPARATORS[0]).split(SEPARATORS[0])]
    if "" in labels:
        raise UserError(f"{file} line {line}: a label of {path} is empty; write one, or remove the row")
    split = WHOLE
    if "split" in columns:
        split = str(cells["split"] or "").strip()
        if split not in SPLITS:
            raise UserError(
                f"{file} line {line}: no split {split!r}{near_names(split, SPLITS)}; use {', '.join(SPLITS)}"
            )
    return _Row(line, path, labels, split)
