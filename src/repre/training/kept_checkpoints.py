"""The checkpoints that a run keeps in addition to its last one: whole ones by epoch, and the encoders of its best
validations.

checkpoints/stable.pt       whole, at the end of the stable part of a `wsd` schedule: the run can be made longer from there
checkpoints/epoch-0010.pt   whole, with `runtime.keep_every`
checkpoints/best-1200.pt    the encoder after step 1200, with `runtime.keep_best` of 2 or more

What is kept follows from the settings, the step and the metrics of the validations, so a resumed run keeps the same files.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repre.config import RunConfig
from repre.training.checkpoint import save_checkpoint
from repre.training.monitoring.limits import LOWER_IS_BETTER
from repre.training.run_folder import RunFolder
from repre.utils.io import keep_copy


class KeptCheckpoints:
    """The whole checkpoints that a run keeps.

    Args:
        steps_per_epoch, total: steps of an epoch and of the run.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, *, steps_per_epoch: int, total: int) -> None:
        self.folder, self.total = folder, total
        self.every = config.runtime.keep_every * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.stable_step = config.optim.decay_start(total) if config.optim.schedule == "wsd" else 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is kept after this step."""
        return bool(self._files(step))

    def keep(self, step: int) -> None:
        """Gives the last checkpoint, which is that of this step, the names that it keeps."""
        for file in self._files(step):
            keep_copy(self.folder.last, file)

    def _files(self, step: int) -> list[Path]:
        if not step:
            return []
        files = [self.folder.stable] if step == self.stable_step < self.total else []
        if self.every and step % self.every == 0:
            files.append(self.folder.last.with_name(f"epoch-{step // self.steps_per_epoch:04d}.pt"))
        return files


def best_steps(validations: Sequence[dict[str, Any]], metric: str, *, count: int) -> list[int]:
    """The steps of the best validations after step 0, the best first; of equal ones the earlier is better.

    Args:
        validations: metrics of validations, each with its `step`.
        metric: name of the metric; validations in which it is missing or not finite do not count.
        count: at most so many.
    """
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    found = [(sign * row[metric], row["step"]) for row in validations if row["step"] and is_number(row.get(metric))]
    return [step for _, step in sorted(found)[:count]]


def is_number(value: float | None) -> bool:
    """Whether a metric was measured and is finite."""
    return value is not None and math.isfinite(value)


def save_kept_best(folder: RunFolder, content: dict[str, Any], steps: Sequence[int], *, keep: int) -> None:
    """Saves the encoder of the newest validation as one of several if it is among the best.

    Args:
        content: of the file: `step`, `epoch` and the encoder's tensors.
        steps: of the best validations.
        keep: number of encoders that the run keeps; the only one has no further file.
    """
    if keep > 1 and content["step"] in steps:
        save_checkpoint(folder.best.with_name(f"best-{content['step']}.pt"), content)


def remove_surpassed(folder: RunFolder, steps: Sequence[int]) -> None:
    """Removes the encoders of validations that are not among the best any more. Call it after the last checkpoint was
    saved: a run that is resumed from an earlier one still counts them among the best.

    Args:
        steps: of the best validations.
    """
    for file in folder.best.parent.glob("best-*.pt"):
        match = re.fullmatch(r"best-(\d+)\.pt", file.name)
        if match and int(match[1]) not in steps:
            file.unlink(missing_ok=True)
