"""Every kind of source against the same images in a folder: runs that are killed in the middle end with the same bits."""

import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

from repre.config import RunConfig
from tests.data.io.hub import offline
from tests.data.io.remote_servers import s3_server, upload, web_server
from tests.data.packing import pack_shards, pack_tar, pack_zip
from tests.faults.common import Row, bit_equal, has_each_step_once, make_photos, tiny_run
from tests.faults.processes import start_group, wait_for_step

KILL_AT = 7
"""Step that a run has logged when it is killed."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    for processes in (1, 2):
        references: dict[int, RunConfig] = {}
        for number, (name, open_kind) in enumerate(KINDS.items()):
            counts = (number % 3,) if short else (0, 1, 2)
            if short and name != ("tar shards" if processes == 2 else "two folders"):
                continue
            with contextlib.ExitStack() as stack:
                cache = stack.enter_context(tempfile.TemporaryDirectory())
                stack.enter_context(mock.patch.dict(os.environ, {"REPRE_CACHE": cache}))
                data = open_kind(make_photos(folder / "photos"), folder / "packed", stack)
                if processes not in references:
                    references[processes] = _run(folder, "folder", str(folder / "photos"), processes, 0, kill=False)
                yield _row(folder, name, data, references[processes], processes, counts)


def _row(
    folder: Path, name: str, data: str | tuple[str, ...], reference: RunConfig, processes: int, workers: tuple[int, ...]
) -> Row:
    equal = complete = 0
    for count in workers:
        config = _run(folder, name, data, processes, count, kill=True)
        equal += bit_equal(reference, config)
        complete += has_each_step_once(config.out)
    which = ", ".join(map(str, workers))
    passed = equal == complete == len(workers)
    return Row(
        "Data source",
        f"{name}, {processes} process{'es' if processes > 1 else ''} with {which} workers, killed in the middle and resumed",
        len(workers),
        f"{equal} of {len(workers)} ended bit-equal to the folder of the same images",
        "the steps since the last checkpoint",
        passed,
    )


def _run(
    folder: Path, name: str, data: str | tuple[str, ...], processes: int, workers: int, *, kill: bool
) -> RunConfig:
    """A run of a source to its end; if asked to, all of its processes are killed once and started again."""
    config = tiny_run(folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{processes}-{workers}", data=data)
    config = replace(config, runtime=replace(config.runtime, workers=workers))
    for stage in range(1 + kill):
        commands = start_group(config, folder, processes)
        if kill and stage == 0:
            wait_for_step(config, KILL_AT, commands=commands)
            for command in commands:
                command.signal(signal.SIGKILL)
        codes = [command.wait() for command in commands]
        expected = -signal.SIGKILL if kill and stage == 0 else 0
        if codes != [expected] * processes:
            raise RuntimeError(f"{name}: exit codes {codes}: {commands[0].output()[-2000:]}")
    return config


# ------------------------------------------------------------------------------------------------------------- sources


Data = str | tuple[str, ...]


def _list(photos: Path, packed: Path, stack: contextlib.ExitStack) -> Data:
    packed.mkdir(exist_ok=True)
    (packed / "list.txt").write_text("".join(f"{path}\n" for path in sorted(photos.iterdir())))
    return str(packed / "list.txt")


def _folders(photos: Path, packed: Path, stack: contextlib.ExitStack) -> Data:
    """The images in two folders, of which the first comes first."""
    names = sorted(path.name for path in photos.iterdir())
    for number, part in enumerate((names[:20], names[20:])):
        (packed / f"part{number}").mkdir(parents=True, exist_ok=True)
        for name in part:
            target = packed / f"part{number}" / name
            if not target.exists():
                target.hardlink_to(photos / name)
    return str(packed / "part0"), str(packed / "part1")


def _saved(photos: Path, packed: Path, stack: contextlib.ExitStack) -> Data:
    """A data set of Hugging Face."""
    stack.enter_context(offline(packed / "hub"))
    import datasets

    rows = {"image": [{"bytes": path.read_bytes(), "path": None} for path in sorted(photos.iterdir())]}
    if not (packed / "saved").exists():
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(packed / "saved"))
    return f"hf:{packed}/saved"


def _bucket(photos: Path, packed: Path, stack: contextlib.ExitStack) -> Data:
    stack.enter_context(s3_server())
    upload(photos, "photos")
    return "s3://photos-bucket/photos/"


def _web_shards(photos: Path, packed: Path, stack: contextlib.ExitStack) -> Data:
    pack_shards(photos, packed / "web")
    return f"{stack.enter_context(web_server(packed / 'web')).url}/{{0000..0002}}.tar"


KINDS: dict[str, Callable[[Path, Path, contextlib.ExitStack], Data]] = {
    "text list": _list,
    "two folders": _folders,
    "pattern": lambda photos, packed, stack: f"{photos}/*.png",
    "one tar": lambda photos, packed, stack: str(pack_tar(photos, packed / "one.tar")),
    "tar shards": lambda photos, packed, stack: pack_shards(photos, packed / "shards"),
    "zip": lambda photos, packed, stack: str(pack_zip(photos, packed / "one.zip")),
    "data set of Hugging Face": _saved,
    "bucket (S3)": _bucket,
    "tar shards of a web server": _web_shards,
}
"""Makes each kind of source of the images in a folder, and gives its ``--data``."""
