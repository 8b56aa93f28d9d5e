"""Errors of the system and hostile inputs: each ends in one message with what, where and a fix, or is read as documented."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from repre.data.loading import manifest
from repre.data.loading.loader import LoaderConfig
from repre.data.views.view_recipes import moco_v3_views
from repre.models.repre import ReconstructionConfig
from tests.faults.common import ForkedCommand, Row, cli_arguments, make_photos, tiny_run
from tests.faults.disk_faults import can_mount, mount_disk
from tests.faults.evaluations import ENCODER
from tests.faults.hostile_inputs import (
    annotations,
    climbing_names,
    coco,
    coco_spec,
    control_characters,
    one_deep_image,
    pages_in_color,
    run_alone,
)

CAPABILITIES_3 = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
LONG = "a" * 300
LISTED = 9_600_000


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    folder.chmod(0o755)
    photos = make_photos(folder / "photos")
    yield _closed_folder(folder, photos, ["report", "embed"] if short else None)
    yield _long_names(folder, photos, ["report", "list"] if short else None)
    if can_mount():
        yield _small_shared_memory(folder, photos, {"64 KiB": 2, "64 MiB": 0} | ({} if short else {"1 GiB": 0}))
    yield _broken_pipes(folder, photos, ["data check"] if short else None)
    yield coco(folder, ["check"] if short else ["check", "detect"])
    yield control_characters(folder, photos, short=short)
    yield climbing_names(folder, photos, short=short)
    yield pages_in_color(folder)
    yield one_deep_image(folder, photos)
    yield _long_list(folder, photos, 4096 if short else LISTED)


def _refusals(
    folder: Path, commands: dict[str, list[str]], words: str, *, before: Callable[[], object] | None = None
) -> tuple[int, list[str]]:
    """How many commands end with code 2, and last say something that matches `words`; and what the others say."""
    others = []
    for name, arguments in commands.items():
        code, output = run_alone(arguments, folder, before=before)
        last = [line for line in output.splitlines() if line.startswith("repre: ")][-1:]
        if code != 2 or "Traceback" in output or not last or not re.search(words, last[0]):
            others.append(f"{name} ended with code {code}: {output[-300:]}")
    return len(commands) - len(others), others


def _commands(folder: Path, photos: Path) -> dict[str, Callable[[str], list[str]]]:
    """Commands that read or write a path, by name."""
    run = cli_arguments(tiny_run(folder / "named", data=str(photos)), folder)
    free = str(folder / "never")
    evaluate = ["eval", "knn", "--encoder", ENCODER, "--data", "scenes:16:32"]
    embed = ["embed", "--encoder", ENCODER, "--data", str(photos)]
    return {
        "pretrain --data": lambda path: [*run, "--data", path, "--out", free],
        "pretrain --out": lambda path: [*run, "--out", path],
        "pretrain --resume": lambda path: ["pretrain", "--resume", path],
        "pretrain --from": lambda path: ["pretrain", "--from", path, "--out", free],
        "pretrain --config": lambda path: ["pretrain", "--config", path],
        "plan": lambda path: ["plan", *run[1:3], "--data", path],
        "eval --encoder": lambda path: ["eval", "knn", "--encoder", path, "--data", "scenes:16:32"],
        "eval --data": lambda path: ["eval", "knn", "--encoder", ENCODER, "--data", path],
        "eval --out": lambda path: [*evaluate, "--out", path],
        "report": lambda path: ["report", path],
        "export --encoder": lambda path: ["export", "--encoder", path],
        "export --out": lambda path: ["export", "--encoder", ENCODER, "--out", path],
        "embed": lambda path: ["embed", "--encoder", ENCODER, "--data", path, "--out", f"{free}.npz"],
        "embed --encoder": lambda path: ["embed", "--encoder", path, "--data", str(photos), "--out", f"{free}.npz"],
        "embed --out": lambda path: [*embed, "--out", f"{path}.npz"],
        "predict": lambda path: ["predict", "--model", path, str(photos), "--out", free],
        "data check": lambda path: ["data", "check", path],
        "data shard": lambda path: ["data", "shard", str(photos), "--out", path],
    }


def _closed_folder(folder: Path, photos: Path, names: list[str] | None) -> Row:
    """Names paths below a folder that the user may not enter."""
    closed = folder / "closed"
    (closed / "inner").mkdir(parents=True)
    commands = {name: command(str(closed / "inner" / "x")) for name, command in _commands(folder, photos).items()}
    listing = folder / "closed.txt"
    listing.write_text(f"{photos}/000.png\n{closed}/inner/1.png\n")
    commands["list"] = ["data", "check", str(listing)]
    chosen = {name: commands[name] for name in names or commands}
    closed.chmod(0)
    try:
        clear, others = _refusals(folder, chosen, f"you may not enter (the folder )?{closed}", before=_obey_permissions)
    finally:
        closed.chmod(0o755)
    return Row(
        "System",
        f"a path below a folder that the user may not enter: {', '.join(chosen)}",
        len(chosen),
        f"{clear} of {len(chosen)} ended with code 2 and named that folder{'; '.join(['', *others])}",
        "nothing",
        clear == len(chosen),
    )


def _obey_permissions() -> None:
    """Takes from root the right to enter every folder; the process keeps its user, because only that may read Python."""
    if os.getuid() != 0:
        return
    library = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    assert library.capget(header, sets) == 0
    for number in range(3):  # effective, permitted, inheritable
        sets[number] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    assert library.capset(header, sets) == 0


def _long_names(folder: Path, photos: Path, names: list[str] | None) -> Row:
    """Names paths with a part of 300 bytes, on the command line and in lists."""
    commands = {name: command(str(folder / LONG)) for name, command in _commands(folder, photos).items()}
    listing, table = folder / "long.txt", folder / "long.csv"
    listing.write_text(f"{photos}/000.png\n{LONG}/1.png\n")
    table.write_text(f"path,label\n{photos}/000.png,a\n{LONG}.png,b\n")
    commands["list"] = ["data", "check", str(listing)]
    commands["csv"] = ["eval", "knn", "--encoder", ENCODER, "--data", f"csv:{table}"]
    content = annotations()
    content["images"][1]["file_name"] = f"{LONG}.png"
    commands["coco"] = ["eval", "detect", "--encoder", ENCODER, "--data", coco_spec(folder, photos, "long", content)]
    chosen = {name: commands[name] for name in names or commands}
    clear, others = _refusals(folder, chosen, "aaaaaaaa|too long")
    left = [path.name[:20] for path in folder.iterdir() if path.name.startswith("never")]
    return Row(
        "System",
        f"a name of 300 bytes: {', '.join(chosen)}",
        len(chosen),
        f"{clear} of {len(chosen)} ended with code 2 and named it{'; '.join(['', *others, *left])}",
        "nothing",
        clear == len(chosen) and not left,
    )


def _small_shared_memory(folder: Path, photos: Path, expected: dict[str, int]) -> Row:
    """Trains at 224 px in batches of 64 with two workers, where /dev/shm has a size; the values are the exit codes."""
    sizes = {"64 KiB": 2**16, "64 MiB": 2**26, "1 GiB": 2**30}
    config = tiny_run(folder / "shm", data=str(photos))
    config = replace(
        config,
        batch_size=64,
        epochs=2,
        views=moco_v3_views(224),
        encoder=replace(config.encoder, image_size=224, patch_size=32),
        reconstruction=ReconstructionConfig(weight=0.0),
        runtime=replace(config.runtime, workers=2, monitors=False),
    )
    codes, said = [], True
    for number, name in enumerate(expected):
        run = replace(config, out=f"{config.out}{number}")
        mounted = partial(mount_disk, Path("/dev/shm"), sizes[name])
        code, output = run_alone(cli_arguments(run, folder), folder, before=mounted)
        codes.append(code)
        said &= code != 2 or "workers need 104 KiB in /dev/shm, which has 64 KiB left" in output
        said &= "Traceback" not in output
    return Row(
        "System",
        f"/dev/shm of {', '.join(expected)}; views of 224 px, batches of 64, two workers",
        len(codes),
        f"ended with codes {codes}; where it is refused, the message says how much is needed: {said}",
        "nothing",
        codes == [*expected.values()] and said,
    )


def _broken_pipes(folder: Path, photos: Path, names: list[str] | None) -> Row:
    """Reads one line of a command's output and leaves."""
    run = tiny_run(folder / "piped", data=str(photos))
    place = folder / "piped-results"
    done: dict[str, tuple[list[str], Path | None]] = {
        "pretrain": (cli_arguments(run, folder), Path(run.out) / "summary.json"),
        "eval": (["eval", "knn", "--encoder", ENCODER, "--data", "scenes:16:32", "--out", str(place)], place),
        "embed": (
            ["embed", "--encoder", ENCODER, "--data", str(photos), "--out", str(folder / "piped.npz")],
            folder / "piped.npz",
        ),
        "plan": (["plan", *cli_arguments(run, folder)[1:3]], None),
        "data check": (["data", "check", str(photos)], None),
    }
    right, others = 0, []
    for name in names or done:
        arguments, result = done[name]
        with open(folder / "piped-errors.txt", "w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "repre.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "REPRE_CACHE": str(folder / "cache")},
            )
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            code = process.wait(300)
            errors.seek(0)
            said = errors.read()
        good = (
            code in (0, 141)
            and "Traceback" not in said
            and "Broken" not in said
            and (result is None or result.exists())
        )
        right += good
        others += [] if good else [f"{name} ended with code {code}: {said[-300:]}"]
    count = len(names or done)
    return Row(
        "System",
        f"the reader of the output leaves after one line: {', '.join(names or done)}",
        count,
        f"{right} of {count} did all their work and ended with code 0 or 141 without a traceback{'; '.join(['', *others])}",
        "the output that nobody read",
        right == count,
    )


def _long_list(folder: Path, photos: Path, count: int) -> Row:
    """Trains from a long list, stops, resumes, and resumes when most of the list is gone."""
    listing, run = folder / "long-list.txt", folder / "long-list"
    _write_list(listing, photos, count)
    size = listing.stat().st_size - count
    config = replace(tiny_run(run), data=str(listing), epochs=1)
    config = replace(config, runtime=replace(config.runtime, monitors=False), loader=LoaderConfig(max_unreadable=1))
    before = partial(setattr, manifest, "MAX_BYTES", min(manifest.MAX_BYTES, size // 2))  # a short one counts as long
    codes, steps, seconds = [], [], []
    for part in (1.0, 1.0, 0.2):
        if part < 1:
            with open(listing, "r+b") as file:
                file.truncate(int(part * count) * (listing.stat().st_size // count))
        begin, command = time.monotonic(), None
        command = ForkedCommand(
            cli_arguments(config, folder),
            folder / f"long-list-{len(codes)}.txt",
            before=before,
            environment={"REPRE_CACHE": str(folder / "cache")},
        )
        done = steps[-1] if steps else 0
        while command.poll() is None and _count_steps(run) <= done:
            time.sleep(0.05)
        seconds.append(time.monotonic() - begin)
        if command.poll() is None:
            command.signal(signal.SIGTERM)
        codes.append(command.wait(900))
        steps.append(_count_steps(run))
    listing.unlink()
    gibs = size / 2**30
    return Row(
        "Hostile input",
        f"a list of {count:,} names of {gibs:.2f} GiB; stopped and resumed, and resumed when four fifths of it are gone",
        3,
        f"ended with codes {codes} (SIGTERM), steps {steps}; the first new step came after "
        f"{', '.join(f'{one:.0f}' for one in seconds)} s",
        "nothing",
        codes == [143] * 3 and 0 < steps[0] < steps[1] < steps[2],
    )


def _write_list(path: Path, photos: Path, count: int) -> None:
    """Writes names of one length that differ and lead to 64 files: slashes and dots spell their numbers."""
    digits = [b"".join(b"././" if number >> bit & 1 else b".///" for bit in range(12)) for number in range(4096)]
    name = os.fsencode(photos.name) + b"/" + b"./" * 8
    with open(path, "wb") as file:
        for high in range(-(-count // 4096)):
            numbers = range(high * 4096, min((high + 1) * 4096, count))
            file.writelines(
                b"%s%s%s%03d.png\n" % (name, digits[high], digits[number % 4096], number % 64) for number in numbers
            )


def _count_steps(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_text().count("\n")
    except OSError:
        return 0
