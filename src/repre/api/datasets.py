"""Prepare data: check a folder of images, write images as shards, write the embedded scenes as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repre.api.arguments import PathLike, as_data, as_output, build_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repre.data.io.file_choice import FileChoice
    from repre.data.labels.label_map import MaskOptions
    from repre.data.scenes import ScenesConfig
    from repre.data.tools.check import Findings
    from repre.data.tools.check_labels import LabelReport
    from repre.data.tools.shard import ShardReport
    from repre.data.tools.shard_config import ShardConfig


def check_data(
    data: PathLike | Sequence[PathLike],
    *,
    channels: int = 3,
    split: str = "train",
    choice: FileChoice | None = None,
    workers: int | None = None,
) -> Findings:
    """Reads every image once and collects sizes, pixel types, unreadable files, duplicates and images of one color.

    Args:
        data: images, as for `pretrain`.
        channels: number of channels of the images.
        split: "train" or "val", for data sets that have both.
        choice: which files are used; None: all images.
        workers: number of processes that decode images; None uses one less than the number of cores.

    Raises:
        UserError: there are no such images.
    """
    from repre.data.io.sources import open_source
    from repre.data.tools.check import check
    from repre.utils.device import pick_workers

    source = open_source(as_data(data), split=split, channels=channels, choice=choice)
    return check(source, workers=pick_workers(workers))


def check_labels(
    data: PathLike,
    *,
    channels: int = 3,
    split: str | None = None,
    workers: int | None = None,
    masks: MaskOptions | None = None,
    **settings: Any,
) -> list[LabelReport]:
    """Reads all labels and collects classes, counts, sizes, and everything that is wrong with them.

    Args:
        data: labeled data, as for `evaluate`.
        channels: number of channels of the images.
        split: "train" or "val"; None for all.
        workers: number of processes that read masks; None uses one less than the number of cores.
        masks: how the pixels of mask files become classes; None uses the defaults.
        settings: fields of `masks` to replace, such as `ignore_label`.

    Returns:
        A report for every split and kind of labels.

    Raises:
        UserError: an unknown setting, or there are no such data.
    """
    from repre.data.labels.label_map import MaskOptions
    from repre.data.tools import check_labels as tool
    from repre.utils.device import pick_workers

    options = build_config(MaskOptions, masks, settings, source="masks")
    return tool.check_labels(str(data), split=split, channels=channels, options=options, workers=pick_workers(workers))


def write_scenes(
    out: PathLike, *, train: int = 1000, val: int = 200, config: ScenesConfig | None = None, **settings: Any
) -> Path:
    """Writes the embedded scenes as files: images, masks, COCO annotations and a table of labels.

    Args:
        out: new or empty folder.
        train, val: number of scenes of each split.
        config: appearance of the scenes; None uses the defaults.
        settings: fields of the config to replace, such as `size`.

    Returns:
        The folder.

    Raises:
        UserError: an unknown setting, or the folder holds files or cannot be written.
    """
    from repre.data.scenes import ScenesConfig
    from repre.data.tools import write

    scenes = build_config(ScenesConfig, config, settings, source="scenes")
    write.write_scenes(as_output(out), {"train": train, "val": val}, config=scenes)
    return Path(out)


def write_shards(
    data: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    config: ShardConfig | None = None,
    split: str = "train",
    choice: FileChoice | None = None,
    workers: int | None = None,
    **settings: Any,
) -> ShardReport:
    """Writes images as tar shards, as they are or shrunk and encoded again. Call it again to resume.

    Args:
        data: images in files, as for `pretrain`.
        out: new or empty folder, or one that an earlier call began.
        config: size, format and so on; None copies the files.
        split: "train" or "val", for data sets that have both.
        choice: which files are used; None: all images.
        workers: number of processes that read and encode; None uses one less than the number of cores.
        settings: fields of the config to replace, such as `size`.

    Raises:
        UserError: there are no such images, an unknown setting, or the folder holds something else.
        RunError: the disk is full, or no file can be read.
    """
    from repre.data.io.sources import open_source
    from repre.data.tools import shard
    from repre.data.tools.shard_config import ShardConfig
    from repre.utils.device import pick_workers

    made = build_config(ShardConfig, config, settings, source="write_shards")
    source = open_source(as_data(data), split=split, choice=choice, remote_gib=0)  # every file is read once
    return shard.write_shards(source, as_output(out), config=made, workers=pick_workers(workers))
