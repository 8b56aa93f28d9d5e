"""The record of why a run ended early: failure.json in the run's folder, which the report reads. Imports no torch.

It is written when the run ends by an error or a signal, and removed when the run resumes. A process that is killed leaves
none; then the report says that the run ended without a word.
"""

import contextlib
import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repre.errors import FailureKind, RunError
from repre.training import next_commands
from repre.training.next_commands import short
from repre.utils.io import write_json

NAME = "failure.json"
MIB = 2**20
HIGH_LR_ALARMS = ("update_size", "weight_size")
"""Monitors whose alarm means that the learning rate is far too high."""


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """What to do next, in a clause, and the command for it."""

    do: str
    command: str


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """Why a run ended early, and what to do next.

    Attributes:
        kind: the kind of failure; see `repre.errors.FailureKind`.
        step: the step at which it ended; None before the first.
        title: what happened, in a clause with the step.
        message: what the command printed.
        next_steps: what to do, the first decides.
    """

    kind: FailureKind
    step: int | None
    title: str
    message: str
    next_steps: list[NextStep] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """What happened and what to do, in one sentence without the full stop."""
        return f"{self.title}; {self.next_steps[0].do}" if self.next_steps else self.title


def record_failure(
    folder: Path, config: Mapping[str, Any], error: BaseException, *, kind: FailureKind, step: int | None, total: int
) -> None:
    """Writes the record of an error into the folder of a run.

    A process that only lost another one does not replace what that one wrote. Where the disk is full, there may be no
    record; the message on the terminal is the same.

    Args:
        config: settings of the run as plain values.
        step: steps that were done, if any.
        total: steps of the run.
    """
    if not folder.is_dir() or (kind == "lost" and (folder / NAME).is_file()):
        return
    failed = error.step if isinstance(error, RunError) else None
    word = "at" if failed is not None or kind == "signal" else "after"
    failed = step if failed is None else failed
    record = FailureRecord(
        kind=kind,
        step=failed,
        title=_title(folder, config, error, kind, _at(failed, total, word=word)),
        message=str(error) or type(error).__name__,
        next_steps=_next_steps(folder, config, error, kind),
    )
    with contextlib.suppress(OSError, RunError):
        write_json(folder / NAME, asdict(record))


def read_failure(folder: Path) -> FailureRecord | None:
    """The record in a run's folder; None if there is none, or one that cannot be read."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8", errors="replace"))
        steps = [NextStep(do=str(one["do"]), command=str(one["command"])) for one in content["next_steps"]]
        step = content["step"] if isinstance(content["step"], int) else None
        return FailureRecord(
            kind=content["kind"],
            step=step,
            title=str(content["title"]),
            message=str(content["message"]),
            next_steps=steps,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def killed(folder: Path, *, step: int, saved: bool) -> FailureRecord:
    """What is said of a run that is not finished, left no record and is not running."""
    after = f"after step {step}" if step else "before its first logged step"
    message = (
        "Its process was killed, or the machine stopped; a process that runs out of main memory is killed like this."
    )
    do = "resume it" if saved else "start it again"
    return FailureRecord(
        kind="lost",
        step=step or None,
        title=f"Ended without a message {after} (killed, or the machine stopped)",
        message=message,
        next_steps=[NextStep(do=do, command=next_commands.resume(folder))],
    )


def forget_failure(folder: Path) -> None:
    """Removes the record, because the run resumed."""
    (folder / NAME).unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------- in words


def _at(step: int | None, total: int, *, word: str) -> str:
    if step is None:
        return "before the first step"
    return f"{word} step {step} of {total}" if total else f"{word} step {step}"


def _title(folder: Path, config: Mapping[str, Any], error: BaseException, kind: FailureKind, at: str) -> str:
    if kind == "diverged":
        return f"Diverged {at}: {_cause_of_divergence(folder, config)}"
    if kind == "signal":
        number = getattr(error, "code", 128 + signal.SIGINT) - 128
        saved = "everything is saved" if isinstance(error, RunError) else "what was saved before is intact"
        return f"Stopped by {signal_name(number)} {at}; {saved}"
    if kind == "data":
        return f"Stopped {at}: images cannot be used"
    titles = {
        "memory": "Ran out of memory",
        "disk": "Could not write to the disk",
        "worker": "A process that reads images died",
        "device": "The device failed",
        "lost": "Lost another process of this run",
    }
    other = "Could not continue" if isinstance(error, RunError) else f"Ended by an unexpected {type(error).__name__}"
    return f"{titles.get(kind, other)} {at}"


def signal_name(number: int) -> str:
    """A signal's name, and for Ctrl-C that of the keys."""
    names = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM (such as the end of a job's time)"}
    try:
        return names.get(signal.Signals(number), signal.Signals(number).name)
    except ValueError:
        return f"signal {number}"


def _cause_of_divergence(folder: Path, config: Mapping[str, Any]) -> str:
    """Far above every published rate, or with an alarm about the size of the steps, the learning rate is the cause."""
    with contextlib.suppress(OSError):
        alarms = (folder / "alarms.jsonl").read_text(encoding="utf-8", errors="replace")
        if any(f'"monitor": "{name}"' in alarms for name in HIGH_LR_ALARMS):
            return "the learning rate is far too high"
    lr = next_commands.setting(config, "optim.lr") or 0.0
    if lr > 3 * next_commands.highest_lr(config):
        return "the learning rate is far too high"
    return "most often the learning rate is too high"


def _next_steps(folder: Path, config: Mapping[str, Any], error: BaseException, kind: FailureKind) -> list[NextStep]:
    options = error.options if isinstance(error, RunError) else ()
    resume = NextStep(do=f"resume with {' '.join(options)}", command=next_commands.resume(folder, *options))
    if not options:
        resume = NextStep(do="resume it", command=next_commands.resume(folder))
    if kind == "diverged":
        return [_lower_lr(folder, config)]
    if kind == "memory" and not options:
        command = next_commands.with_half_the_batch(folder, config)
        half = command.partition("--batch-size ")[2]
        return [NextStep(do=f"start again with --batch-size {half}", command=command)]
    if kind == "data":
        do = "list every file that cannot be used, and repair or remove them"
        return [NextStep(do=do, command=next_commands.check_data(config)), resume]
    if kind == "disk":
        return [NextStep(do=f"{_missing_space(folder)}, then resume", command=resume.command)]
    if kind == "worker":
        workers = next_commands.setting(config, "runtime.workers")
        fewer = str(int(workers) // 2) if workers else "2"
        do = f"resume with fewer processes (--runtime.workers {fewer})"
        return [NextStep(do=do, command=next_commands.resume(folder, "--runtime.workers", fewer))]
    if kind == "lost":
        return [NextStep(do="read the message of the process that failed first, then resume", command=resume.command)]
    return [resume]


def _lower_lr(folder: Path, config: Mapping[str, Any]) -> NextStep:
    lr = short(next_commands.lower_lr(config))
    return NextStep(do=f"start again with --optim.lr {lr}", command=next_commands.with_lower_lr(folder, config))


def _missing_space(folder: Path) -> str:
    """How much is missing on the disk for the next checkpoint, which is written beside the last one."""
    try:
        free = shutil.disk_usage(folder).free
        last = folder / "checkpoints" / "last.pt"
        needed = last.stat().st_size if last.is_file() else None
    except OSError:
        return "free some space"
    if needed is None:
        return f"free some space ({free / MIB:.0f} MiB are left)"
    if free > needed:
        return f"make {folder} writable ({free / MIB:.0f} MiB are free, a checkpoint needs {needed / MIB:.0f} MiB)"
    missing = max(1, -(-(needed - free) // MIB))
    return f"free {missing} MiB more ({free / MIB:.0f} MiB are free, a checkpoint needs {needed / MIB:.0f} MiB)"
