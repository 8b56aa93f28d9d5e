"""Bad data: thousands of fuzzed images, and folders that change while a run reads them."""

import os
import resource
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.decode import UnreadableImage, read_image
from repre.data.loading.loader import LoaderConfig
from tests.faults.broken_images import FAULTS, FORMATS, RARE
from tests.faults.common import Life, Row, command, equal, live, photos, small, whole
from tests.faults.kills import in_fork

PATIENCE = 20
"""Seconds that one file may take."""
LARGEST = 2_000_000_000
"""Bytes that reading all of them may add to a process: an image of the largest size allowed, unpacked and converted."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    yield fuzzed(folder / "fuzzed", times=150 if short else 5200)
    yield training(folder)
    yield dying_worker(folder)


def fuzzed(folder: Path, *, times: int) -> Row:
    """Every file is read for 3 and for 5 channels, in another process, whose memory is measured."""
    folder.mkdir()
    found: dict[str, Any] = in_fork(lambda: _read_all(folder, times))
    assert isinstance(found, dict), f"the process that read the files ended with {found}"
    kinds = "; ".join(f"{name} {read} + {refused}" for name, (read, refused) in found["kinds"].items())
    return Row(
        "Data",
        "fuzzed image files, each read for 3 and for 5 channels",
        found["files"],
        f"read + refused with a reason: {kinds}. Anything else: {found['else']}; slowest {found['slowest']:.1f} s, memory "
        f"grew by {found['grown'] / 1e6:.0f} MB",
        "nothing" if not found["else"] else "a run",
        found["else"] == 0 and found["files"] >= times and found["slowest"] < PATIENCE and found["grown"] < LARGEST,
        details={"reasons": found["reasons"], "worst": found["worst"]},
    )


def _read_all(folder: Path, times: int) -> dict[str, Any]:
    draw, kinds, reasons = np.random.default_rng(5), {fault.__name__: [0, 0] for fault in FAULTS}, Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other, files, slowest, worst = 0, 0, 0.0, ""
    for turn in count():
        if files >= times:
            break
        for fault in FAULTS:
            if turn % RARE.get(fault, 1):
                continue
            ending = str(draw.choice(FORMATS))
            path = folder / os.fsdecode(b"%d\xff.%s" % (files, ending.encode()))
            fault(draw, path, ending)
            for channels in (3, 5):
                begun = time.monotonic()
                try:
                    image = read_image(path, channels=channels, canvas=64)
                    assert image.ndim == 3
                    assert max(image.shape[:2]) <= 64
                    assert image.shape[2] == channels
                    assert np.isfinite(image).all()
                    good = True
                except UnreadableImage as error:
                    reasons[str(error).split(":")[0]] += 1
                    good = False
                except Exception as error:
                    other += 1
                    worst = f"{fault.__name__} {ending}: {error!r}"
                    continue
                if time.monotonic() - begun > slowest:
                    slowest, worst = time.monotonic() - begun, worst or f"{fault.__name__} {ending}"
                kinds[fault.__name__][not good] += channels == 3
            files += 1
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {
        "kinds": kinds,
        "reasons": dict(reasons),
        "else": other,
        "files": files,
        "slowest": slowest,
        "worst": worst,
        "grown": grown,
    }


def training(folder: Path) -> Row:
    """A run on a folder that is broken before it begins and while it goes on."""
    data = photos(folder / "changing", 200)
    for number in range(0, 20, 2):
        FAULTS[number % 6](np.random.default_rng(number), data / f"{number:03d}.png", "png")
    strange = Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe.png"))
    os.rename(data / "021.png", strange)
    (data / "loop").symlink_to(data, target_is_directory=True)
    config = small(folder / "run", data=str(data), epochs=3, loader=LoaderConfig(max_unreadable=0.5))
    config = replace(config, runtime=replace(config.runtime, workers=1))
    life = Life(command(config, folder), folder / "run.txt")

    def disturb() -> None:
        while "step 0:" not in life.words():
            time.sleep(0.02)
        for number in range(100, 120):
            (data / f"{number}.png").unlink()
            shutil.copyfile(data / "050.png", data / f"{number + 20}.png")
            shutil.copyfile(data / "051.png", data / f"new{number}.png")

    thread = threading.Thread(target=disturb)
    thread.start()
    code = life.wait()
    thread.join()
    out = Path(config.out)
    unreadable = (out / "unreadable.txt").read_bytes().splitlines()
    changed = (out / "changed.txt").read_bytes().splitlines()
    vanished = sum(b"vanished" in line for line in unreadable)
    steps = whole(out, 3 * (len(list(data.glob("*.png"))) // 8))  # as many went as came
    return Row(
        "Data",
        "a folder with 10 broken files, a loop of links and a name that is not UTF-8; while the run reads it 20 go, 20 "
        "change and 20 are added",
        1,
        f"ended with code {code}; {len(unreadable)} listed as unreadable ({vanished} vanished), {len(changed)} as changed, "
        f"new ones left for the next run; each step once: {steps}",
        "nothing",
        code == 0 and steps and vanished > 0 and len(changed) > 0 and "Traceback" not in life.words(),
    )


def dying_worker(folder: Path) -> Row:
    """A decoder that dies at one file; the file is taken away and the same command goes on."""
    straight, config = small(folder / "straight"), small(folder / "deadly")
    data = Path(config.data)
    config = replace(config, runtime=replace(config.runtime, workers=2))
    code, words = live(config, folder, before=lambda: _deadly(data / "030.png"))
    named = "030.png" in words and "a worker process died" in words
    again, _ = live(config, folder)
    assert live(straight, folder)[0] == 0
    same = equal(straight.out, config.out)
    return Row(
        "Data",
        "a decoding process that is killed by the file that it reads",
        1,
        f"ended with code {code}; the file is named: {named}; the same command with a sound decoder: code {again}, "
        f"bit-equal to a run without the fault: {same}",
        "nothing saved",
        code == 1 and named and again == 0 and same and "Traceback" not in words,
    )


def _deadly(path: Path) -> None:
    from repre.data.io import folders

    real = folders.read_image

    def read(given: Path, **more: Any) -> Any:
        if given == path:
            os.kill(os.getpid(), 9)
        return real(given, **more)

    folders.read_image = read  # type: ignore[assignment]
