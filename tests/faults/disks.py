"""Disks that are full or read-only: injected errors (root may write anywhere), and a limit of the kernel."""

import errno
import os
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from repre.config import RunConfig
from repre.training.checkpoint import load_latest
from repre.training.loop import train
from repre.training.run_folder import RunFolder
from tests.faults.common import (
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    make_photos,
    reference_run,
    run_command,
    run_in_fork,
    tiny_run,
)
from tests.faults.disk_faults import DiskFault, can_mount, mount_disk

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)
UNPRIVILEGED_USER = 65534


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    reference = reference_run(folder / "reference")
    total, first = run_in_fork(partial(_count_operations, folder))
    rng = random.Random(3)
    for number in ERRORS[:1] if short else ERRORS:
        yield _broken_runs(
            folder,
            reference,
            f"{os.strerror(number)} at a random write, fsync, link or rename out of the {total} of a run (injected)",
            [partial(_fail_from, rng.randrange(first, total), number) for _ in range(1 if short else 8)],
        )
    methods = ["append_metrics"] if short else ["append_metrics", "append_log"] * 3
    yield _broken_runs(
        folder,
        reference,
        "No space left for a line of metrics.jsonl or log.txt (injected in the middle of the line)",
        [partial(_fill_disk_in_line, method) for method in methods],
    )
    yield _broken_runs(
        folder,
        reference,
        "files may not become larger than 100 KB (limit of the kernel, RLIMIT_FSIZE)",
        [lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))],
    )
    if os.getuid() == 0:
        yield _read_only_folder(folder)
    if can_mount():
        yield _full_disk(folder, ["embed"] if short else ["pretrain", "finetune", "embed", "export", "shard"])


def _broken_runs(folder: Path, reference: RunConfig, fault: str, injections: list[Callable[[], object]]) -> Row:
    """Starts a run with each injection, then the same command without it."""
    clear = intact = equal = complete = 0
    for number, inject in enumerate(injections):
        config = tiny_run(folder / f"{abs(hash(fault))}-{number}")
        code, output = run_command(config, folder, before=inject)
        has_message = "intact" in output or "name another folder" in output
        clear += code in (1, 2) and "Traceback" not in output and has_message
        last = Path(config.out) / "checkpoints/last.pt"
        loaded = load_latest(last, last.with_name("previous.pt"))
        intact += loaded is None or loaded[1] is None
        code, output = run_command(config, folder)
        assert code == 0, output[-2000:]
        equal += bit_equal(reference, config)
        complete += has_each_step_once(config.out)
    count = len(injections)
    return Row(
        "Disk",
        fault,
        count,
        f"{clear} of {count} ended with code 1 or 2 and one clear message; the checkpoint was intact {intact} times; after "
        f"the fault {equal} runs bit-equal, {complete} with each step once",
        "nothing saved" if equal == intact == count else "weights",
        clear == intact == equal == complete == count,
    )


def _count_operations(folder: Path) -> tuple[int, int]:
    """Returns the number of disk operations of a run, and how many of them come before it owns its folder."""
    fault, before = DiskFault(-1).install(), [0]
    prepare = RunFolder.prepare

    def counted_prepare(self: RunFolder, *args: Any) -> bool:
        finished = prepare(self, *args)
        before[0] = fault.counts.total()
        return finished

    RunFolder.prepare = counted_prepare  # type: ignore[assignment,method-assign]
    train(tiny_run(folder / "counted"))
    return fault.counts.total(), before[0]


def _fail_from(at: int, number: int) -> None:
    """Makes a disk operation of this process fail, and all that follow."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    DiskFault(at, fault=fail, permanent=True).install()


def _fill_disk_in_line(method: str) -> None:
    """Fills the disk in the middle of the 20th line of metrics.jsonl, or of the 5th line of log.txt."""
    append, lines = getattr(RunFolder, method), [0]

    def call(self: RunFolder, content: Any) -> None:
        lines[0] += 1
        if lines[0] == (5 if method == "append_log" else 20):
            path = self.log if method == "append_log" else self.metrics
            with open(path, "a") as file:
                file.write('{"step": 20, "lo')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        append(self, content)

    setattr(RunFolder, method, call)


def _read_only_folder(folder: Path) -> Row:
    parent = folder / "closed"
    parent.mkdir(mode=0o755)
    photos = make_photos(folder / "photos")
    config = tiny_run(parent / "run", data=str(photos))
    folder.chmod(0o755)
    code, output = run_command(config, folder, before=_drop_privileges)
    clear = code == 2 and "name another folder" in output and "Traceback" not in output
    return Row(
        "Disk",
        "an output folder that the user may not write to (as an unprivileged user)",
        1,
        f"ended with code {code}: {output.strip().splitlines()[-1].replace(str(folder), '...')[:160]}",
        "nothing",
        clear and not Path(config.out).exists(),
    )


def _drop_privileges() -> None:
    """Gives up root's rights when the run first touches its folder; importing modules before that may need them."""
    prepare = RunFolder.prepare

    def unprivileged_prepare(self: RunFolder, *args: Any) -> bool:
        os.setuid(UNPRIVILEGED_USER)
        return prepare(self, *args)

    RunFolder.prepare = unprivileged_prepare  # type: ignore[assignment,method-assign]


def _full_disk(folder: Path, names: list[str]) -> Row:
    """Gives every command an output on a disk of 1 MiB (tmpfs) of which 24 KiB are free."""
    photos, disk = make_photos(folder / "photos"), folder / "disk"
    disk.mkdir()
    encoder = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
    run = replace(tiny_run(folder / "full", data=str(photos)), out=str(disk / "run"))
    commands = {
        "pretrain": cli_arguments(run, folder),
        "finetune": ["eval", "finetune", "--encoder", encoder, "--data", "scenes:32:32", "--fit.epochs", "1"],
        "embed": ["embed", "--encoder", encoder, "--data", str(photos), "--kind", "pyramid", "--half"],
        "export": ["export", "--encoder", encoder, "--to", "torch-export"],
        "shard": ["data", "shard", str(photos)],
    }
    clear, said = 0, ""
    for name in names:
        out = [] if name == "pretrain" else ["--out", str(disk / ("out.npz" if name == "embed" else "out"))]

        def fill() -> None:
            mount_disk(disk, 2**20)
            (disk / "other").write_bytes(bytes(2**20 - 24 * 1024))

        command = ForkedCommand([*commands[name], *out], folder / f"full-{name}.txt", before=fill)
        code, output = command.wait(), command.output()
        own = output.count("No space left on device")
        right = code in (1, 2) and own and "Traceback" not in output and "enforce fail" not in output
        clear, said = clear + bool(right), said or ("" if right else output[-500:])
    return Row(
        "Disk",
        f"a disk of 1 MiB (tmpfs) that is full: {', '.join(names)}",
        len(names),
        f"{clear} of {len(names)} ended with code 1 or 2 and said that no space is left{said}",
        "nothing saved",
        clear == len(names),
    )
