"""What goes wrong in a run without having to end it: files that cannot be read or that change, steps that are not finite.

Counted, listed in the run's folder with the reason, kept in the checkpoint, and ended where it is too much. All ranks see
the same, so that all end together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from repre.config import RunConfig
from repre.data.io.sources import Source
from repre.errors import RunError
from repre.models.repre import RePre
from repre.training.nonfinite import find_cause
from repre.training.run_folder import RunFolder
from repre.types import Batch, Losses, Views
from repre.utils.dist import any_rank, is_main_process, rank, world_size
from repre.utils.fsdp import local_tensor

NOT_FINITE_IN_A_ROW = 20
"""Steps in a row that may be skipped, by the setting or because fp16's gradient scale was too high; beyond, the run is
broken."""
HOW_TO_GO_ON = (
    "What was saved is intact and the same command goes on from it. If the files are at fault, take them away, or add "
    "--runtime.not-finite skip to pass over such steps. If training diverges, start again with another --out and a lower "
    "--optim.lr, a longer --optim.warmup-fraction or --optim.clip-grad-norm 1.0"
)
T = TypeVar("T")


class FailureTracker:
    """Follows the troubles of one process's part in a run.

    Attributes:
        broken: index -> reason of files that cannot be read.
        changed: indices of files that were written to after the run began.
        seen: images looked at so far, at most all.
        skipped: steps that were not finite and passed over.
        in_a_row: how many of them just now.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, source: Source, device: torch.device, *, say: Callable[[str], None]
    ) -> None:
        self.config, self.folder, self.source, self.device, self.say = config, folder, source, device, say
        self.broken: dict[int, str] = {}
        self.changed: list[int] = []
        self.seen = self.skipped = self.in_a_row = 0

    def state(self) -> dict[str, Any]:
        return {
            "unreadable": dict(self.broken),
            "changed": list(self.changed),
            "seen": self.seen,
            "skipped": self.skipped,
            "skipped_in_a_row": self.in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes `state` back, and writes the lists as they were then."""
        self.broken, self.seen = state["unreadable"], state["seen"]
        self.changed = state.get("changed", [])  # checkpoints of earlier versions know less
        self.skipped, self.in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row", 0)
        if is_main_process():
            if self.broken or self.folder.unreadable.exists():
                self.folder.write_list(self.folder.unreadable, [self._line(i, why) for i, why in self.broken.items()])
            if self.changed or self.folder.changed.exists():
                self.folder.write_list(self.folder.changed, [self.source.describe(i) for i in self.changed])

    # --------------------------------------------------------------------------------------------------- files

    def note_files(self, batch: Batch) -> None:
        """Counts and lists files that could not be read, or that changed; stops the run above the share allowed."""
        found, changed = batch.failures, batch.changed
        if any_rank(bool(found or changed), self.device):
            found, changed = _joined(found), _joined(changed)
        self._note_changed([index for index in changed if index not in self.changed])
        new = {index: reason for index, reason in found if index not in self.broken}
        if not new:
            return
        self.broken |= new
        if is_main_process():
            self.folder.append_list(self.folder.unreadable, [self._line(i, why) for i, why in new.items()])
        allowed = self.config.loader.max_unreadable
        looked_at = max(min(self.seen + self.config.batch_size, len(self.source)), min(200, len(self.source)))
        if len(self.broken) > allowed * looked_at:
            index, reason = next(iter(new.items()))
            raise RunError(
                f"{len(self.broken)} of the first {looked_at} files cannot be read, more than "
                f"loader.max_unreadable = {allowed:.0%} allows; the last one is "
                f"{self.source.describe(index)} ({reason}); all are listed in {self.folder.unreadable}"
            )

    def _note_changed(self, new: list[int]) -> None:
        if not new:
            return
        if not self.changed:
            self.say(
                f"a file changed after the run began: {self.source.describe(new[0])}; what it shows now is used. "
                f"Further ones are listed in {self.folder.changed}"
            )
        self.changed += dict.fromkeys(new)
        if is_main_process():
            self.folder.append_list(self.folder.changed, [self.source.describe(i) for i in dict.fromkeys(new)])

    def _line(self, index: int, reason: str) -> str:
        return f"{self.source.describe(index)}\t{reason}"

    # --------------------------------------------------------------------------------------------------- numbers

    def sound(self) -> None:
        """A step was finite."""
        self.in_a_row = 0

    def overflow(self) -> bool:
        """Whether one more step may be passed over because fp16's gradient scale was too high; it is halved then."""
        self.in_a_row += 1
        return self.in_a_row <= NOT_FINITE_IN_A_ROW

    def not_finite(
        self, model: RePre, losses: Losses, views: Views, batch: Batch, *, step: int, seed: int, precision: torch.dtype
    ) -> None:
        """A step whose loss or gradient is not finite: finds the cause, writes it down with all files of the batch, and
        raises RunError unless such steps are to be skipped."""
        found = find_cause(
            model, losses, views, seed=seed, micro_batch=self.config.compute.micro_batch, precision=precision
        )
        mine = {
            "cause": found.words,
            "at_fault": [self.source.describe(int(batch.indices[place])) for place in found.places],
            "files": [self.source.describe(int(index)) for index in batch.indices],
        }
        parts = _joined([mine])
        named = next((part for part in parts if part["at_fault"]), parts[0])
        files = [name for part in parts for name in part["files"]]
        at_fault = [name for part in parts for name in part["at_fault"]]
        row = {"step": step, "cause": named["cause"], "at_fault": at_fault, "files": files}
        if is_main_process():
            self.folder.append_not_finite(row)
        images = f"at fault {_few(at_fault)}" if at_fault and len(at_fault) < len(files) else f"the batch {_few(files)}"
        words = f"step {step} is not finite: {named['cause']}; {images} (all in {self.folder.not_finite})"
        self.in_a_row += 1
        if self.config.runtime.not_finite == "stop" or self.in_a_row > NOT_FINITE_IN_A_ROW:
            if self.in_a_row > 1:
                words += f"; {self.in_a_row} such steps in a row"
            last = self.folder.last
            saved = f"the last good weights are in {last}" if last.is_file() else "nothing was saved yet"
            raise RunError(f"{words}; {saved}. {HOW_TO_GO_ON}")
        self.skipped += 1
        self.say(f"{words}; skipped, the weights stay as they were")

    def refuse_broken_weights(self, model: RePre, *, step: int) -> None:
        """Ends the run before weights that are not finite replace good ones in a checkpoint."""
        broken = [name for name, value in model.state_dict().items() if not local_tensor(value).isfinite().all()]
        if any_rank(bool(broken), self.device):
            last = self.folder.last
            saved = f"{last} has the last good weights" if last.is_file() else "nothing was saved yet"
            name = broken[0] if broken else f"a weight of another process than {rank()}"
            raise RunError(
                f"after step {step} the parameter {name} is not finite and is not saved; {saved}. {HOW_TO_GO_ON}"
            )


def _few(names: list[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _joined(mine: list[T]) -> list[T]:
    """The lists of all ranks, one after another; a collective call."""
    if world_size() == 1:
        return mine
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return [one for part in parts for one in part]
