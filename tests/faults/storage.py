"""Storage that is at fault for a while, or for good: it is waited for, and no good file counts as damaged."""

import errno
import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch

from repre.config import RunConfig
from repre.data.io.decode import UnreadableImage, read_image
from repre.data.loading.loader import LoaderConfig
from tests.faults.broken_images import many_scans
from tests.faults.common import (
    RUNTIME,
    STEPS,
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    logged_steps,
    make_photos,
    reference_run,
    run_command,
    tiny_run,
)

ERRORS = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT)
FAILING, EVERY = 4, 30
"""So many of so many attempts to open an image fail, one after another."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    reference = reference_run(folder / "reference")
    yield _errors(folder, reference, ERRORS[:1] if short else ERRORS, workers=(1,) if short else (0, 1))
    yield _away_for_a_while(folder, reference, times=1 if short else 6)
    yield _away_for_good(folder, reference)
    yield _many_scans()


def _run(out: Path, *, workers: int = 0, storage_minutes: float = 5.0) -> RunConfig:
    """A tiny run that opens every image in every epoch."""
    runtime = replace(RUNTIME, workers=workers, storage_minutes=storage_minutes)
    return tiny_run(out, runtime=runtime, loader=LoaderConfig(cache="off"))


def _is_as_undisturbed(config: RunConfig, reference: RunConfig) -> bool:
    unreadable = (Path(config.out) / "unreadable.txt").exists()
    return bit_equal(config, reference) and has_each_step_once(config.out) and not unreadable


def _fail_to_open(number: int, folder: Path) -> None:
    """Has the system refuse some attempts to open an image."""
    calls, real = count(), os.open

    def open_or_fail(path: str, *args: int, **keywords: int) -> int:
        if str(path).startswith(str(folder)) and next(calls) % EVERY < FAILING:
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **keywords)

    os.open = open_or_fail  # type: ignore[assignment]


def _errors(folder: Path, reference: RunConfig, numbers: tuple[int, ...], *, workers: tuple[int, ...]) -> Row:
    same = 0
    for number in numbers:
        for processes in workers:
            config = _run(folder / f"{errno.errorcode[number]}{processes}", workers=processes)
            code, output = run_command(config, folder, before=partial(_fail_to_open, number, folder / "photos"))
            assert code == 0, output[-2000:]
            same += _is_as_undisturbed(config, reference)
    tries = len(workers) * len(numbers)
    names = ", ".join(errno.errorcode[number] for number in numbers)
    return Row(
        "Storage",
        f"{FAILING} of {EVERY} attempts to open an image fail ({names}; injected), "
        f"with {' and '.join(map(str, workers))} worker processes",
        tries,
        f"{same} of {tries} ended with code 0, bit-equal to an undisturbed run, no file listed as unreadable",
        "nothing",
        same == tries,
    )


def _wait_for_step(command: ForkedCommand, config: RunConfig, step: int) -> None:
    while not (Path(config.out) / "metrics.jsonl").exists() or len(logged_steps(config.out)) < step:
        assert command.poll() is None, command.output()[-2000:]
        time.sleep(0.01)


def _away_for_a_while(folder: Path, reference: RunConfig, *, times: int) -> Row:
    photos, aside, same = make_photos(folder / "photos"), folder / "aside", 0
    for number in range(times):
        config = _run(folder / f"while{number}", workers=number % 2)
        command = ForkedCommand(cli_arguments(config, folder), folder / f"while{number}.txt")
        _wait_for_step(command, config, 3 * number + 2)
        photos.rename(aside)
        if number % 3 == 2:  # as a mount point without its disk
            photos.mkdir()
        time.sleep(0.5)
        if photos.exists():
            photos.rmdir()
        aside.rename(photos)
        assert command.wait() == 0, command.output()[-2000:]
        same += _is_as_undisturbed(config, reference)
    return Row(
        "Storage",
        "the data folder is away, or empty, for half a second while a run reads it",
        times,
        f"{same} of {times} ended with code 0, bit-equal to an undisturbed run, no file listed as unreadable",
        "nothing",
        same == times,
    )


def _saved_step(config: RunConfig) -> int:
    step: int = torch.load(Path(config.out) / "checkpoints/last.pt", weights_only=True)["step"]
    return step


def _away_for_good(folder: Path, reference: RunConfig) -> Row:
    photos, aside = make_photos(folder / "photos"), folder / "aside"
    config = _run(folder / "good", storage_minutes=0.01)
    config = replace(config, runtime=replace(config.runtime, checkpoint_minutes=60.0, eval_every_epochs=3))
    command = ForkedCommand(cli_arguments(config, folder), folder / "good.txt")
    _wait_for_step(command, config, 5)
    photos.rename(aside)
    code = command.wait()
    saved, logged = _saved_step(config), logged_steps(config.out)[-1]
    aside.rename(photos)
    said = "all other data" in command.output() and "Traceback" not in command.output()
    again, _ = run_command(config, folder)
    equal = again == 0 and bit_equal(config, reference) and has_each_step_once(config.out)
    return Row(
        "Storage",
        "the data folder is away for longer than --runtime.storage-minutes; then the same command again",
        1,
        f"ended with code {code} and a message that says so: {said}; saved at step {saved} of {STEPS}, the last that was "
        f"done: {saved == logged}; then bit-equal: {equal}",
        "nothing",
        code == 1 and said and saved == logged and equal,
    )


def _many_scans() -> Row:
    bomb, reason, started = many_scans(20_000), "it was decoded", time.monotonic()
    try:
        read_image(io.BytesIO(bomb))
    except UnreadableImage as error:
        reason = str(error)
    return Row(
        "Data",
        f"a progressive JPEG of {len(bomb) / 1e6:.1f} MB with 20,000 scans, which take minutes to decode",
        1,
        f"after {time.monotonic() - started:.1f} s: {reason}",
        "nothing",
        reason.startswith("more than 100 scans"),
    )
