"""How much longer one config trains than another: short trainings of both take turns, so that whatever else the machine
does slows them alike. Seconds that were written down at other times, or on another machine, cannot be compared."""

import shutil
import statistics
from dataclasses import replace
from pathlib import Path

from repre.api import pretrain
from repre.config import RunConfig

ROUNDS = 3
STEPS = 20
"""Of each short training."""


def longer(one: RunConfig, other: RunConfig, *, images: Path, work: Path) -> float:
    """Seconds of a step of `one` over those of `other`, the median over rounds.

    Args:
        images: a folder of files with as many images as the short trainings take, or more.
        work: a folder for them, removed afterwards.
    """
    work.mkdir(parents=True, exist_ok=True)
    files = work / "images.txt"
    chosen = sorted(images.iterdir())[: STEPS * one.batch_size]
    files.write_text("".join(f"{path}\n" for path in chosen), encoding="utf-8")
    ratios = []
    for number in range(ROUNDS):
        first, second = (
            _seconds(config, files, work / f"{number}-{name}") for config, name in ((one, "a"), (other, "b"))
        )
        ratios.append(first / second)
    shutil.rmtree(work)
    return statistics.median(ratios)


def _seconds(config: RunConfig, files: Path, out: Path) -> float:
    run = pretrain(replace(config, data=str(files), out=str(out), epochs=1))
    seconds: float = run.summary["seconds"]
    return seconds
