"""`repre data`: check a folder of images, write images as shards, or write the embedded scenes as files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from repre import api
from repre.cli.parsing import parse
from repre.data.io.file_choice import FileChoice
from repre.data.labels.label_map import MaskOptions
from repre.data.scenes import ScenesConfig
from repre.data.tools.shard_config import ShardConfig
from repre.errors import UserError, near_names
from repre.utils.printable_text import say

USAGE = """repre data check photos/        Read every image once. List unreadable files, duplicates and sizes.
repre data check --labels yolo:photos/  Read the labels: classes, counts, sizes, what is wrong.
repre data shard photos/ --out shards/ --size 512       Write images as tar shards, shrunk or as they are.
repre data scenes --out scenes/ Write the embedded scenes as files, with labels, masks and boxes.

`repre data ACTION --help` lists the options."""


def main(arguments: Sequence[str]) -> int:
    actions = {"check": _check, "shard": _shard, "scenes": _scenes}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    action, *rest = arguments
    if action not in actions:
        raise UserError(f"unknown action {action!r}; choose one of: {', '.join(actions)}{near_names(action, actions)}")
    return actions[action](rest)


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `repre data check`."""

    data: tyro.conf.Positional[tuple[str, ...]]
    """Images, as for pretrain, one or several; with --labels labeled data, as for eval."""
    labels: bool = False
    """Check the labels instead of the images."""
    choice: Annotated[FileChoice, tyro.conf.arg(name="")] = field(default_factory=FileChoice)
    """Which files are used."""
    channels: int = 3
    """Channels of the images."""
    split: Literal["train", "val"] | None = None
    """train or val, for data sets that have both; None: train, and of labels both."""
    workers: int | None = None
    """Processes that decode images; None uses one less than the number of cores."""
    masks: Annotated[MaskOptions, tyro.conf.arg(name="")] = field(default_factory=MaskOptions)
    """How the pixels of mask files become classes, with --labels."""


def _check(arguments: Sequence[str]) -> int:
    options = parse(
        CheckOptions,
        arguments,
        command="data check",
        description="Read every image once. List sizes, unreadable files, duplicates and images of one color. "
        "With --labels read the labels, and list classes, counts and everything that is wrong.",
    )
    shared: dict[str, Any] = {"channels": options.channels, "workers": options.workers}
    if options.labels:
        if len(options.data) != 1 or options.choice != FileChoice():
            raise UserError(
                "--labels checks one data set as a whole; name one, without --include, --exclude, --any-ending"
            )
        reports = api.check_labels(options.data[0], split=options.split, masks=options.masks, **shared)
        say(*(line for report in reports for line in report.lines()))
        return 1 if any(report.problems for report in reports) else 0
    if options.masks != MaskOptions():
        raise UserError("--colors, --ignore-label and the other options of masks need --labels")
    findings = api.check_data(options.data, split=options.split or "train", choice=options.choice, **shared)
    say(*findings.lines())
    return 1 if findings.unreadable or findings.values else 0


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """Options of `repre data shard`."""

    data: tyro.conf.Positional[tuple[str, ...]]
    """Images, as for pretrain: one or several."""
    out: Path
    """New or empty folder, or the folder of the same command, to resume it."""
    config: Annotated[ShardConfig, tyro.conf.arg(name="")] = field(default_factory=ShardConfig)
    """What the shards hold."""
    choice: Annotated[FileChoice, tyro.conf.arg(name="")] = field(default_factory=FileChoice)
    """Which files are used."""
    split: Literal["train", "val"] = "train"
    """train or val, for data sets that have both."""
    workers: int | None = None
    """Processes that read and encode images; None uses one less than the number of cores."""


def _shard(arguments: Sequence[str]) -> int:
    options = parse(
        ShardOptions,
        arguments,
        command="data shard",
        description="Write images as tar shards, in their order: as they are, or shrunk and encoded again. Read them back.",
    )
    report = api.write_shards(**vars(options))
    say(*report.lines())
    return 1 if report.unreadable else 0


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """Options of `repre data scenes`."""

    out: Path
    """New or empty folder."""
    train: int = 1000
    """Number of scenes to train on."""
    val: int = 200
    """Number of scenes to test on."""
    config: Annotated[ScenesConfig, tyro.conf.arg(name="")] = field(default_factory=ScenesConfig)
    """Appearance of the scenes."""


def _scenes(arguments: Sequence[str]) -> int:
    options = parse(
        ScenesOptions,
        arguments,
        command="data scenes",
        description="Write the embedded scenes as files: images, masks, COCO annotations and a table of labels.",
    )
    out = api.write_scenes(**vars(options))
    print(f"written to {out}; use as csv:{out}/labels.csv, coco:{out}, or")
    print(f"pairs:{out}/{{split}}/images,{out}/{{split}}/masks")
    return 0
