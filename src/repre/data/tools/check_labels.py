"""Reads all labels of a data set and reports what it finds: classes, counts, sizes, and everything that is wrong.

H, W  height and width    C  classes
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.boxes import open_boxes
from repre.data.labels.classes import open_labeled
from repre.data.labels.coco_boxes import CocoBoxes
from repre.data.labels.image_sizes import image_size
from repre.data.labels.label_map import count_values
from repre.data.labels.mask_colors import unpack
from repre.data.labels.mask_files import VOC_FOLDERS, FileMasks, other_size
from repre.data.labels.masks import MaskOptions, open_masks
from repre.data.labels.problems import Problems
from repre.data.labels.splits import LabeledImages
from repre.data.loading.workers import in_workers
from repre.data.tools.check import list_names
from repre.errors import UserError
from repre.utils.progress import track

Array = np.ndarray

MAX_CLASSES = 200
"""Most rows of a table of classes."""
AREAS = {"small": 32**2, "medium": 96**2, "large": np.inf}
"""COCO's sizes of objects: largest area in pixels."""


@dataclass
class LabelReport:
    """What the labels of one split say.

    Attributes:
        title: which labels these are.
        facts: lines of text.
        problems: what is wrong; an evaluation would stop at the first.
        images: what was read: the kind of labels, and the names of all images.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    images: str = ""

    def lines(self) -> list[str]:
        """The report, line by line."""
        problems = list_names(f"problems ({len(self.problems)})", self.problems) or ["no problems"]
        return [self.title, *(f"  {line}" for line in [*self.facts, *problems])]


def check_labels(
    spec: str, *, split: str | None = None, channels: int = 3, options: MaskOptions | None = None, workers: int = 0
) -> list[LabelReport]:
    """Checks the labels that a ``--data`` string of an evaluation names.

    Args:
        spec: masks (`open_masks`), boxes (`open_boxes`) or classes (`open_labeled`); voc: has masks, boxes or both.
        split: train or val; None: both.
        channels: channels of the images.
        options: how the pixels of mask files become classes; of boxes only `skip_unlabeled` counts, of classes only
            `accept_labels`.
        workers: processes that read masks.

    Returns:
        A report for every kind of labels and split.

    Raises:
        UserError: there are no such data.
    """
    options = options or MaskOptions()
    name, _, rest = spec.partition(":")
    if name not in ("pairs", "ade20k", "voc", "coco", "yolo"):
        return _check_classes(spec, split, channels, accept=options.accept_labels)
    reports = []
    voc = Path(rest).expanduser()
    masks = name in ("pairs", "ade20k") or (name == "voc" and _holds(voc, "ImageSets/Segmentation"))
    boxes = name in ("coco", "yolo") or (name == "voc" and (_holds(voc, "Annotations") or not masks))
    for part in (split,) if split else ("train", "val"):
        if masks:
            reports.append(_check_masks(spec, part, channels, options, workers))
        if boxes:
            reports.append(_check_boxes(spec, part, channels, options))
    return list({report.images: report for report in reversed(reports)}.values())[::-1]  # without a split, both are one


def _holds(folder: Path, content: str) -> bool:
    return any((root / content).exists() for root in [folder, *(folder / name for name in VOC_FOLDERS)])


# -------------------------------------------------------------------------------------------------------------- masks


class _MaskFacts(NamedTuple):
    """What is known of one mask: its size, and the pixels of every value; or what is wrong."""

    size: tuple[int, int]
    values: Array
    counts: Array
    problems: list[str]


class _Masks(Dataset[_MaskFacts]):
    """Item i is what is known of mask i."""

    def __init__(self, source: FileMasks) -> None:
        self.source = source

    def __getitem__(self, index: int) -> _MaskFacts:
        path, mask = self.source.pairs[index]
        none = np.zeros(0, np.int64)
        try:
            values = self.source.labels.read(mask)
        except UserError as error:
            return _MaskFacts((0, 0), none, none, [str(error)])
        problems = []
        try:
            size = image_size(path, channels=self.source.channels)
            if size != values.shape:
                problems.append(other_size(path, size, mask, values.shape))
        except UnreadableImage as error:
            problems.append(f"{path} cannot be read: {error}")
        classes = self.source.labels.classify(values)
        if (classes == -1).any():
            problems.append(self.source.labels.explain(mask, values, classes))
        found, counts = count_values(values)
        return _MaskFacts((values.shape[0], values.shape[1]), found, counts, problems)


def _check_masks(spec: str, split: str, channels: int, options: MaskOptions, workers: int) -> LabelReport:
    problems = Problems(collect=True, accept=options.accept_labels)
    lenient = replace(options, skip_unlabeled=True)
    source = open_masks(spec, split=split, channels=channels, whole=True, options=lenient, problems=problems)
    assert isinstance(source, FileMasks)
    report = LabelReport(f"{split}: masks of {len(source)} images", problems=problems.messages)
    report.images = "\n".join(["masks", *(str(path) for path, _ in source.pairs)])
    report.facts += [note for note in source.notes if not note.endswith("left out")]
    if source.unlabeled:
        names = list_names(f"images without a mask ({len(source.unlabeled)})", [str(path) for path in source.unlabeled])
        if options.skip_unlabeled:
            report.facts += names
        else:
            report.problems.append("\n    ".join([*names, "--skip-unlabeled leaves them out"]))
    pixels, images = np.zeros((2, len(source.classes)), np.int64)
    unknown: Counter[int] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    ignored = 0
    facts_of_all = in_workers(_Masks(source), range(len(source)), workers=workers)
    for facts in track(facts_of_all, "masks", total=len(source), unit="mask"):
        report.problems += facts.problems
        if not facts.counts.size:
            continue
        sizes[facts.size] += 1
        classes = source.labels.classify(facts.values)
        is_ignored = classes == source.labels.ignore_index
        is_class = (classes >= 0) & ~is_ignored
        ignored += int(facts.counts[is_ignored].sum())
        unknown.update(facts.values[classes == -1].tolist())
        np.add.at(pixels, classes[is_class], facts.counts[is_class])
        images[np.unique(classes[is_class])] += 1
    report.facts += _size_lines(sizes)
    total = max(1, int(pixels.sum()) + ignored)
    report.facts.append(f"ignored: {ignored / total:.2%} of the pixels")
    if unknown:
        named = [
            f"{','.join(map(str, unpack(value))) if source.labels.in_color else value} in {count} images"
            for value, count in sorted(unknown.items())
        ]
        report.facts += list_names("values without a class", named)
    rows = [(name, f"{count / total:.2%}", str(many)) for name, count, many in zip(source.classes, pixels, images)]
    report.facts += _table(("class", "pixels", "images"), rows)
    report.facts += _balance(source.classes, pixels, "pixels")
    return report


# -------------------------------------------------------------------------------------------------------------- boxes


def _check_boxes(spec: str, split: str, channels: int, options: MaskOptions) -> LabelReport:
    problems = Problems(collect=True)
    source = open_boxes(
        spec,
        split=split,
        channels=channels,
        whole=True,
        skip_unlabeled=options.skip_unlabeled,
        problems=problems,
    )
    assert isinstance(source, CocoBoxes)
    report = LabelReport("", problems=problems.messages)
    report.images = "\n".join(["boxes", *(str(source.path(index)) for index in range(len(source)))])
    objects, images = np.zeros((2, len(source.classes)), np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    areas: Counter[str] = Counter()
    sides: list[float] = []
    empty, crowds = [], 0
    for index in track(range(len(source)), "objects", total=len(source)):
        sizes[source.size(index)] += 1
        _check_size(source, index, report)
        rows = [row for row in source.truth(index) if not row["iscrowd"]]
        crowds += len(source.truth(index)) - len(rows)
        if not rows:
            empty.append(source.describe(index))
            continue
        labels = np.array([row["category_id"] for row in rows]) - 1
        np.add.at(objects, labels, 1)
        images[np.unique(labels)] += 1
        sides += [min(row["bbox"][2:]) for row in rows]
        areas.update(next(name for name, most in AREAS.items() if row["area"] <= most) for row in rows)
        for row in source.truth(index):
            try:
                source.mask(index, row)
            except UserError as error:
                report.problems.append(str(error))
    kind = "outlines" if source.has_masks else "boxes only"
    report.title = f"{split}: {int(objects.sum())} objects in {len(source)} images, {kind}; {crowds} crowds"
    report.facts += [*source.notes, *_size_lines(sizes)]
    if sides:
        report.facts.append(
            f"short side of a box: {min(sides):.1f} to {max(sides):.1f} pixels, median {float(np.median(sides)):.1f}; "
            + ", ".join(f"{areas[name]} {name}" for name in AREAS)
        )
    report.facts += list_names(f"images without objects ({len(empty)})", empty)
    rows_of_classes = [(name, str(count), str(many)) for name, count, many in zip(source.classes, objects, images)]
    report.facts += _table(("class", "objects", "images"), rows_of_classes)
    report.facts += _balance(source.classes, objects, "objects")
    return report


def _check_size(source: CocoBoxes, index: int, report: LabelReport) -> None:
    try:
        size = image_size(source.path(index), channels=source.channels)
    except UnreadableImage as error:
        report.problems.append(f"{source.path(index)} cannot be read: {error}")
        return
    if size != source.size(index):
        (height, width), (h, w) = size, source.size(index)
        report.problems.append(
            f"{source.path(index)} has {height} x {width} pixels (height x width), its annotations say {h} x {w}"
        )


# ------------------------------------------------------------------------------------------------------------ classes


def _check_classes(spec: str, split: str | None, channels: int, *, accept: bool) -> list[LabelReport]:
    problems = Problems(collect=True, accept=accept)
    data = open_labeled(spec, test=spec, channels=channels, problems=problems)  # which holds nothing out
    parts: dict[str, LabeledImages] = {"train": data.train}
    if data.val is not None:
        parts["val"] = data.val
    if data.test_set != spec:  # the data have images of their own to test on
        parts[data.test_set.partition(" ")[0]] = data.test
    chosen = {name: part for name, part in parts.items() if split in (None, name)}
    if not chosen:
        raise UserError(f"--split {split}: {spec} has only {', '.join(parts)}")
    reports = [_class_report(name, part) for name, part in chosen.items()]
    reports[0].problems += problems.messages
    reports[0].facts += data.notes
    return reports


def _class_report(name: str, part: LabeledImages) -> LabelReport:
    if part.multilabel:
        counts = part.targets.sum(0).astype(np.int64)
        per_image = part.targets.sum(1)
        facts = [f"labels of an image: {per_image.min():.0f} to {per_image.max():.0f}, mean {per_image.mean():.2f}"]
    else:
        counts, facts = np.bincount(part.targets, minlength=len(part.classes)), []
    rows = [(label, str(count), f"{count / len(part):.2%}") for label, count in zip(part.classes, counts)]
    single = [label for label, count in zip(part.classes, counts) if count == 1]
    return LabelReport(
        f"{name}: {len(part)} images of {len(part.classes)} classes",
        [
            *facts,
            *_table(("class", "images", "share"), rows),
            *list_names(f"classes with one image ({len(single)}): none of them can be held out", single),
            *_balance(part.classes, counts, "images"),
        ],
    )


# --------------------------------------------------------------------------------------------------------------- text


def _size_lines(sizes: Counter[tuple[int, int]]) -> list[str]:
    if not sizes:
        return []
    short = [min(size) for size in sizes]
    common = ", ".join(f"{height} x {width} ({count})" for (height, width), count in sizes.most_common(3))
    return [f"short side: {min(short)} to {max(short)} pixels; most: {common}"]


def _table(header: tuple[str, str, str], rows: list[tuple[Any, str, str]]) -> list[str]:
    shown = rows[:MAX_CLASSES]
    width = max(len(str(row[0])) for row in [header, *shown])
    lines = [f"{row[0]!s:{width}}  {row[1]:>10}  {row[2]:>8}" for row in [header, *shown]]
    return [*lines, *([f"and {len(rows) - MAX_CLASSES} more classes"] if len(rows) > MAX_CLASSES else [])]


def _balance(classes: list[str], counts: Array, what: str) -> list[str]:
    """How far the classes differ, and which never occur."""
    absent = [name for name, count in zip(classes, counts) if count == 0]
    lines = list_names(f"classes that never occur ({len(absent)} of {len(classes)})", absent)
    if len(absent) <= len(classes) - 2:
        order = [index for index in np.argsort(counts, kind="stable").tolist() if counts[index]]
        least, most = order[0], order[-1]
        ratio = counts[most] / counts[least]
        lines.append(f"imbalance: {classes[most]} has {ratio:,.1f} times as many {what} as {classes[least]}")
    return lines
