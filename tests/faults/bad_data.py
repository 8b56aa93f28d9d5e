"""Bad data: thousands of broken image files, and folders that change while a run reads them."""

import os
import resource
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.data.io import image_files
from repre.data.io.decode import UnreadableImage, read_image
from repre.data.loading.loader import LoaderConfig
from tests.faults.broken_images import FAULTS, FORMATS, INTERVALS
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

MAX_SECONDS = 20
"""Longest time that one file may take."""
MAX_GROWTH = 2_000_000_000
"""Most bytes that reading all files may add to a process: an image of the largest allowed size, decoded and converted."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    yield _broken_files(folder / "fuzzed", count=60 if short else 5200)
    yield _changing_folder(folder)
    yield _dying_worker(folder)


def _broken_files(folder: Path, *, count: int) -> Row:
    """Reads every file for 3 and for 5 channels, in another process whose memory is measured."""
    folder.mkdir()
    result: dict[str, Any] = run_in_fork(partial(_read_all, folder, count))
    assert isinstance(result, dict), f"the process that read the files ended with {result}"
    kinds = "; ".join(f"{name} {read} + {refused}" for name, (read, refused) in result["kinds"].items())
    return Row(
        "Data",
        "fuzzed image files, each read for 3 and for 5 channels",
        result["files"],
        f"read + refused with a reason: {kinds}. Other errors: {result['other']}; slowest {result['slowest']:.1f} s, memory "
        f"grew by {result['growth'] / 1e6:.0f} MB",
        "nothing" if not result["other"] else "a run",
        result["other"] == 0
        and result["files"] >= count
        and result["slowest"] < MAX_SECONDS
        and result["growth"] < MAX_GROWTH,
        details={"reasons": result["reasons"], "worst": result["worst"]},
    )


def _read_all(folder: Path, total: int) -> dict[str, Any]:
    rng, reasons = np.random.default_rng(5), Counter[str]()
    kinds = {fault.__name__: [0, 0] for fault in FAULTS}  # files read, files refused
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other, files, slowest, worst = 0, 0, 0.0, ""
    for turn in count():
        if files >= total:
            break
        for fault in FAULTS:
            if turn % INTERVALS.get(fault, 1):
                continue
            suffix = str(rng.choice(FORMATS))
            path = folder / os.fsdecode(b"%d\xff.%s" % (files, suffix.encode()))
            fault(rng, path, suffix)
            for channels in (3, 5):
                started = time.monotonic()
                try:
                    image = read_image(path, channels=channels, canvas=64)
                    assert image.ndim == 3
                    assert max(image.shape[:2]) <= 64
                    assert image.shape[2] == channels
                    assert np.isfinite(image).all()
                    refused = False
                except UnreadableImage as error:
                    reasons[str(error).split(":")[0]] += 1
                    refused = True
                except Exception as error:
                    other += 1
                    worst = f"{fault.__name__} {suffix}: {error!r}"
                    continue
                seconds = time.monotonic() - started
                if seconds > slowest:
                    slowest, worst = seconds, worst or f"{fault.__name__} {suffix}"
                kinds[fault.__name__][refused] += channels == 3
            files += 1
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {
        "kinds": kinds,
        "reasons": dict(reasons),
        "other": other,
        "files": files,
        "slowest": slowest,
        "worst": worst,
        "growth": growth,
    }


def _changing_folder(folder: Path) -> Row:
    """Trains on a folder that is broken before the run starts and changes while it reads."""
    data = make_photos(folder / "changing", 200)
    for number in range(0, 20, 2):
        FAULTS[number % 6](np.random.default_rng(number), data / f"{number:03d}.png", "png")
    not_utf8 = Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe.png"))
    os.rename(data / "021.png", not_utf8)
    (data / "loop").symlink_to(data, target_is_directory=True)
    config = tiny_run(folder / "run", data=str(data), loader=LoaderConfig(max_unreadable=0.5))
    config = replace(config, runtime=replace(config.runtime, workers=1))
    command = ForkedCommand(cli_arguments(config, folder), folder / "run.txt")

    def change_files() -> None:
        while "step 0:" not in command.output():
            time.sleep(0.02)
        for number in range(100, 120):
            (data / f"{number}.png").unlink()
            shutil.copyfile(data / "050.png", data / f"{number + 20}.png")
            shutil.copyfile(data / "051.png", data / f"new{number}.png")

    thread = threading.Thread(target=change_files)
    thread.start()
    code = command.wait()
    thread.join()
    out = Path(config.out)
    unreadable = (out / "unreadable.txt").read_bytes().splitlines()
    changed = (out / "changed.txt").read_bytes().splitlines()
    vanished = sum(b"vanished" in line for line in unreadable)
    complete = has_each_step_once(out, config.epochs * (len(list(data.glob("*.png"))) // 8))  # as many went as came
    return Row(
        "Data",
        "a folder with 10 broken files, a loop of links and a name that is not UTF-8; while the run reads it, 20 files are "
        "removed, 20 changed and 20 added",
        1,
        f"ended with code {code}; {len(unreadable)} listed as unreadable ({vanished} vanished), {len(changed)} as changed, "
        f"new files left for the next run; each step once: {complete}",
        "nothing",
        code == 0 and complete and vanished > 0 and len(changed) > 0 and "Traceback" not in command.output(),
    )


def _dying_worker(folder: Path) -> Row:
    """Kills the worker process that reads a certain file; then the same command runs without that fault."""
    reference, config = reference_run(folder / "reference"), tiny_run(folder / "deadly")
    config = replace(config, runtime=replace(config.runtime, workers=2), loader=LoaderConfig(cache="off"))
    code, output = run_command(config, folder, before=lambda: _kill_reader_of(Path(config.data) / "030.png"))
    named = "030.png" in output and "worker process died" in output.replace("\n", " ")
    resumed_code, _ = run_command(config, folder)
    equal = bit_equal(reference, config)
    return Row(
        "Data",
        "a worker process that is killed by the file that it reads",
        1,
        f"ended with code {code}; the message names the file: {named}; the same command without the fault: code "
        f"{resumed_code}, bit-equal to a run without it: {equal}",
        "nothing saved",
        code == 1 and named and resumed_code == 0 and equal and "Traceback" not in output,
    )


def _kill_reader_of(deadly: Path) -> None:
    """Makes every process that reads this file kill itself."""
    original = image_files.read_image

    def read(file: BinaryIO, *, name: str, **kwargs: Any) -> Any:
        if name == deadly.name:
            os.kill(os.getpid(), 9)
        return original(file, name=name, **kwargs)

    image_files.read_image = read
