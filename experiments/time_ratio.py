"""Ratio of the training times of two configs.

Short trainings of both configs alternate, so that other load on the machine slows both alike. Times that were recorded
separately, or on different machines, cannot be compared.
"""

import shutil
import statistics
from dataclasses import replace
from pathlib import Path

from repre.api import pretrain
from repre.config import RunConfig

ROUNDS = 3
STEPS = 20
"""Steps of each short training."""


def training_time_ratio(numerator: RunConfig, denominator: RunConfig, *, images: Path, work: Path) -> float:
    """Measures the training time of one config divided by that of another: the median over `ROUNDS` rounds.

    Args:
        images: folder with at least `STEPS` batches of image files.
        work: folder for the short trainings; deleted afterwards.
    """
    work.mkdir(parents=True, exist_ok=True)
    image_list = work / "images.txt"
    paths = sorted(images.iterdir())[: STEPS * numerator.batch_size]
    image_list.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    ratios = []
    for number in range(ROUNDS):
        first, second = (
            _train_seconds(config, image_list, work / f"{number}-{name}")
            for config, name in ((numerator, "numerator"), (denominator, "denominator"))
        )
        ratios.append(first / second)
    shutil.rmtree(work)
    return statistics.median(ratios)


def _train_seconds(config: RunConfig, image_list: Path, out: Path) -> float:
    run = pretrain(replace(config, data=str(image_list), out=str(out), epochs=1))
    return float(run.summary["seconds"])
