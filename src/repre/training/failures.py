"""What need not end a run: files that cannot be read, that change or have several frames; steps that are not finite.

They are counted and kept in the checkpoint. Failures are listed in the run folder with the reason, and end the run where
there are too many. All ranks see the same failures, so they end together.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from repre.config import RunConfig
from repre.config_values import to_dict
from repre.data.io.sources import Source
from repre.errors import FailureKind, RunError, UserError, named
from repre.models.repre import RePre
from repre.training.failure_record import record_failure
from repre.training.next_commands import lower_lr, short
from repre.training.nonfinite import PIXELS_NOT_FINITE, find_cause
from repre.training.run_folder import RunFolder
from repre.types import Batch, Losses, Views
from repre.utils.device_errors import describe_device_error
from repre.utils.dist import any_rank, gather_objects, is_lost_peer, is_main_process, rank
from repre.utils.fsdp import local_tensor
from repre.utils.os_errors import describe_os_error
from repre.utils.pieces import FinalMemoryError, is_out_of_memory

MAX_CONSECUTIVE_SKIPS = 20
"""Steps in a row that may be skipped, by the setting or because fp16's gradient scale was too high; beyond that the run
ends."""
FILES = "If single files are at fault, remove them, or add --runtime.not-finite skip to skip such steps"


@contextmanager
def failures_in_words(config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """Inside, an error of the disk or of the device becomes a RunError that says what helps and how to resume; every error
    is recorded in the folder. A refusal of the user's input leaves no folder of a run that did not begin."""
    try:
        with _errors_in_words(config, folder):
            yield
    except UserError:
        folder.withdraw()
        raise
    except (Exception, KeyboardInterrupt) as error:
        if folder.is_there():
            step, total = folder.step or None, folder.total_steps
            record_failure(folder.path, to_dict(config), error, kind=_kind(error), step=step, total=total)
        raise


@contextmanager
def _errors_in_words(config: RunConfig, folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) or (isinstance(error, RunError) and error.kind == "disk"):
            _refuse_lost_folder(folder, error)
        data = [config.data] if isinstance(config.data, str) else config.data
        described = describe_os_error(error, [*data, config.out])
        if isinstance(described, UserError) and not folder.last.is_file():
            raise described from error
        if described is not None:
            raise RunError(f"{described}. {folder.resume_advice}", kind="disk") from error
        reason = describe_device_error(error)
        if reason is None:
            raise
        lacks_memory = isinstance(error, FinalMemoryError) or is_out_of_memory(error)
        kind: FailureKind = "memory" if lacks_memory else "lost" if isinstance(error, dist.DistError) else "device"
        raise RunError(f"{reason}. {folder.resume_advice}", kind=kind) from error


def _refuse_lost_folder(folder: RunFolder, error: Exception) -> None:
    """Ends a run whose folder was moved or deleted; nothing is written to where it was.

    Raises:
        RunError: the folder is not the one that the run began in.
    """
    if is_main_process() and not folder.is_there():
        raise RunError(
            f"{folder.path} was moved or deleted while the run was writing to it. If it was moved, move it back, or "
            "resume it where it is with --resume FOLDER",
            kind="disk",
        ) from error


def _kind(error: BaseException) -> FailureKind:
    """Why a run ended, by the error that ended it; the loss of another process has no class of its own."""
    if isinstance(error, KeyboardInterrupt):
        return "signal"
    if isinstance(error, RunError):
        return error.kind
    return "lost" if is_lost_peer(error) else "other"


class FailureTracker:
    """Counts the failures of a run, as one process sees them.

    Attributes:
        unreadable: index -> reason, of files that cannot be read.
        changed: indices of files whose content changed after the run began, in the order they were met.
        several: for every file whether it was met and holds frames or pages that are not used, bool [N].
        seen: images that the run has met so far, at most all.
        skipped: steps that were not finite and skipped.
        consecutive: how many of the last steps were skipped.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        source: Source,
        device: torch.device,
        *,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.source, self.device, self.log = config, folder, source, device, log
        self.unreadable: dict[int, str] = {}
        self.changed: dict[int, None] = {}  # a set that keeps its order
        self.several = np.zeros(len(source), bool)
        self.seen = self.skipped = self.consecutive = 0

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {
            "unreadable": dict(self.unreadable),
            "changed": list(self.changed),
            "several_frames": torch.from_numpy(np.flatnonzero(self.several)),
            "seen": self.seen,
            "skipped": self.skipped,
            "skipped_in_a_row": self.consecutive,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Loads what `state` returned, and rewrites the lists as they were then."""
        self.unreadable, self.changed = state["unreadable"], dict.fromkeys(state["changed"])
        if "several_frames" in state:  # older checkpoints do not have it
            self.several[state["several_frames"].numpy()] = True
        self.seen, self.skipped, self.consecutive = state["seen"], state["skipped"], state["skipped_in_a_row"]
        if is_main_process():
            if self.unreadable or self.folder.unreadable.exists():
                self.folder.write_list(self.folder.unreadable, self._lines(self.unreadable))
            if self.changed or self.folder.changed.exists():
                self.folder.write_list(self.folder.changed, self._names(self.changed))

    # --------------------------------------------------------------------------------------------------- files

    def concerns(self, batch: Batch) -> bool:
        """Whether the batch has files to count; those with several frames only when they are met first."""
        return bool(batch.failures or batch.changed) or not self.several[batch.several_frames].all()

    def add_files(self, batch: Batch) -> None:
        """Counts the batch's files that could not be read, that changed, or of several frames; a collective call.

        Raises:
            RunError: more files are unreadable than `loader.max_unreadable` allows.
        """
        failures, changed = gather_objects(batch.failures), gather_objects(batch.changed)
        self._add_several(gather_objects(batch.several_frames))
        self._add_changed([index for index in dict.fromkeys(changed) if index not in self.changed])
        new = {index: reason for index, reason in failures if index not in self.unreadable}
        if not new:
            return
        self.unreadable |= new
        if is_main_process():
            self.folder.append_list(self.folder.unreadable, self._lines(new))
        allowed = self.config.loader.max_unreadable
        met = max(min(self.seen + self.config.batch_size, len(self.source)), min(200, len(self.source)))
        if len(self.unreadable) > allowed * met:
            index, reason = next(iter(new.items()))
            raise RunError(
                f"{len(self.unreadable)} of the first {met} files cannot be read, more than "
                f"loader.max_unreadable = {allowed:.0%} allows; the last one is "
                f"{self.source.describe(index)} ({reason}); all are listed in {self.folder.unreadable}",
                kind="data",
            )

    def _add_changed(self, new: list[int]) -> None:
        if not new:
            return
        if not self.changed:
            self.log(
                f"a file changed after the run began: {self.source.describe(new[0])}; its new content is used. "
                f"Further ones are listed in {self.folder.changed}"
            )
        self.changed |= dict.fromkeys(new)
        if is_main_process():
            self.folder.append_list(self.folder.changed, self._names(new))

    def _add_several(self, indices: list[int]) -> None:
        if indices and not self.several.any():
            self.log(
                f"{self.source.describe(indices[0])} holds several frames or pages; only the first one is used, here "
                "and in other such files"
            )
        self.several[indices] = True

    def _names(self, indices: Iterable[int]) -> list[str]:
        return [self.source.describe(index) for index in indices]

    def _lines(self, reasons: dict[int, str]) -> list[str]:
        return [f"{self.source.describe(index)}\t{reason}" for index, reason in reasons.items()]

    # --------------------------------------------------------------------------------------------------- numbers

    def mark_finite(self) -> None:
        """Counts a step that was finite."""
        self.consecutive = 0

    def may_skip_overflow(self) -> bool:
        """Counts a step that overflowed in fp16, after which the gradient scale is halved; False after too many."""
        self.consecutive += 1
        return self.consecutive <= MAX_CONSECUTIVE_SKIPS

    def add_nonfinite(
        self,
        model: RePre,
        losses: Losses,
        views: Views,
        batch: Batch,
        *,
        step: int,
        seed: int,
        micro_batch: int,
        precision: torch.dtype,
    ) -> None:
        """Finds the cause of a step that is not finite and lists it with all files of the batch; a collective call.

        Raises:
            RunError: such steps are not to be skipped, or there were too many in a row.
        """
        cause = find_cause(model, losses, views, seed=seed, micro_batch=micro_batch, precision=precision)
        report = {
            "cause": cause.description,
            "at_fault": self._names(int(batch.indices[image]) for image in cause.images),
            "files": self._names(int(index) for index in batch.indices),
        }
        reports = gather_objects([report])
        first = next((one for one in reports if one["at_fault"]), reports[0])
        files = [name for one in reports for name in one["files"]]
        at_fault = [name for one in reports for name in one["at_fault"]]
        if is_main_process():
            self.folder.append_not_finite({"step": step, "cause": first["cause"], "at_fault": at_fault, "files": files})
        images = (
            f"images at fault: {named(at_fault, most=4)}"
            if at_fault and len(at_fault) < len(files)
            else f"files of the batch: {named(files, most=4)}"
        )
        message = f"step {step} is not finite: {first['cause']}; {images} (all in {self.folder.not_finite})"
        self.consecutive += 1
        if self.config.runtime.not_finite == "stop" or self.consecutive > MAX_CONSECUTIVE_SKIPS:
            if self.consecutive > 1:
                message += f"; {self.consecutive} such steps in a row"
            if at_fault and PIXELS_NOT_FINITE in first["cause"]:  # the images are at fault, not the training
                options = ("--runtime.not-finite", "skip")
                raise RunError(f"{message}. {self._saved()}. {FILES}", kind="data", options=options, step=step)
            raise RunError(f"{message}. {self._saved()}. {self._advice()}", kind="diverged", step=step)
        self.skipped += 1
        self.log(f"{message}; skipped, the weights are unchanged")

    def refuse_broken_weights(self, model: RePre, *, step: int) -> None:
        """Ends the run before weights that are not finite replace good ones in a checkpoint; a collective call."""
        broken = [name for name, value in model.state_dict().items() if not local_tensor(value).isfinite().all()]
        if any_rank(bool(broken), self.device):
            name = broken[0] if broken else f"a weight of another process than {rank()}"
            raise RunError(
                f"after step {step} the parameter {name} is not finite and is not saved. {self._saved()}. "
                f"{self._advice()}",
                kind="diverged",
                step=step,
            )

    def _advice(self) -> str:
        """What helps a run that diverged, with a learning rate to try."""
        lr = short(lower_lr(to_dict(self.config)))
        return (
            f"If training diverges, start again with another --out and a lower --optim.lr, such as {lr}, a longer "
            f"--optim.warmup-fraction or --optim.clip-grad-norm 1.0. {FILES}"
        )

    def _saved(self) -> str:
        """What the user can rely on."""
        if self.folder.last.is_file():
            return f"{self.folder.last} has the last good weights; run the same command again to resume from them"
        return "No checkpoint was saved yet"
