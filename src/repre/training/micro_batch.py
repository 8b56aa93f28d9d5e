"""The micro-batch of a run: chosen before its first step, halved where a step runs out of memory, and recorded."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from repre.config import RunConfig
from repre.config_values import to_dict
from repre.errors import RunError
from repre.training.memory import (
    GIB,
    DoesNotFit,
    StepMemory,
    device_memory,
    feeder_bytes,
    head_bytes,
    model_bytes,
    piece_sizes,
    view_bytes,
)
from repre.training.run_folder import RunFolder
from repre.training.run_state import RunState
from repre.training.step import StepResult, whole_batch_reason
from repre.types import Views
from repre.utils.dist import any_rank, gather_objects, is_main_process, world_size
from repre.utils.pieces import attempt, free_memory, is_out_of_memory


class MicroBatch:
    """How many images a process of a run encodes at once.

    Attributes:
        size: the images; 0: its whole local batch.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, state: RunState, *, log: Callable[[str], None]) -> None:
        self.config, self.folder, self.state, self.log = config, folder, state, log
        given = config.compute.micro_batch
        self.size = 0 if given == "auto" else given
        self.count = config.batch_size // world_size()

    def choose(self, views: Views, *, progress: float) -> None:
        """Finds the largest micro-batch that fits, if the config leaves it to the device and the device can be measured; a
        collective call.

        Args:
            views: of the local batch.
            progress: share of the run that is done.

        Raises:
            RunError: nothing fits.
        """
        if self.state.compiled:
            self.log("compiling the step, which takes a minute or two; afterwards every step is faster")
        memory = device_memory(self.state.device)
        if self.config.compute.micro_batch != "auto" or memory is None or self._whole_batch_reason() is not None:
            return
        if self.state.sharded:
            return  # every pass is a collective one, and a process that runs out of memory would leave the others waiting
        step = StepMemory(self.state, views, progress=progress, memory=memory, reserve=self._reserve())
        try:
            size, measured = step.search(at_most=self.folder.recorded_micro_batch())
        except DoesNotFit as failure:
            few = failure.few
            raise self._error(activations=math.inf if few is None else few.peak - few.before) from None
        while True:
            size = min(gather_objects([size]))
            seconds = attempt(partial(step.seconds, size))
            if not any_rank(seconds is None, self.state.device) and seconds is not None:
                break
            size = self._smaller(size)
        pieces = f"pieces of {size} images" if size < self.count else f"the whole batch of {size} images"
        self.log(
            f"{pieces} at once fit: {measured.peak / GIB:.1f} of {memory.available() / GIB:.1f} GiB, "
            f"{self.count / seconds:.0f} images/s forward and backward (compute.micro_batch auto)"
        )
        self._record(size)

    def repeat(self, step: Callable[[int], StepResult]) -> StepResult:
        """The result of a step; where its passes run out of memory, it is repeated with half as many images at once.

        Args:
            step: takes the micro-batch, and changes nothing before it has the gradient.

        Raises:
            RunError: nothing smaller fits, or there are several processes, which could not repeat a step together.
        """
        while (result := attempt(partial(step, self.size))) is None:
            before = min(self.size or self.count, self.count)
            smaller = self._smaller(before)
            if world_size() > 1:
                raise RunError(
                    f"{before} images at once ran out of memory, and several processes cannot repeat a step together. "
                    f"{self.folder.resume_advice}; add --compute.micro-batch {smaller} to it",
                    kind="memory",
                    options=("--compute.micro-batch", str(smaller)),
                )
            self._record(smaller)
            self.log(
                f"{before} images at once ran out of memory; the step is repeated with {self.size}, the same update"
            )
        return result

    @contextmanager
    def views_explained(self) -> Iterator[None]:
        """Inside, a lack of memory means that the views of the batch do not fit, and ends in a RunError that says so."""
        try:
            yield
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        raise self._error(views=math.inf, activations=None)

    def _reserve(self) -> int:
        """Bytes that the search does not see: of the views' making, and with several ranks of the gradients' exchange."""
        trained = sum(p.numel() * p.element_size() for p in self.state.model.parameters() if p.requires_grad)
        return feeder_bytes(self.config, self.count) + (trained if world_size() > 1 else 0)

    def _whole_batch_reason(self) -> str | None:
        """Why the batch is not cut, in words; None if it may be."""
        return whole_batch_reason(self.state.model.encoder, self.config.reconstruction)

    def _smaller(self, size: int) -> int:
        smaller = [other for other in piece_sizes(self.count) if other < size]
        if not smaller or self._whole_batch_reason() is not None:
            raise self._error()
        return smaller[0]

    def _record(self, size: int) -> None:
        self.size = size
        if is_main_process():
            self.folder.write_config(self.config, micro_batch=size)

    # ---------------------------------------------------------------------------------------------- when nothing fits

    def _error(self, *, views: float | None = None, activations: float | None = math.inf) -> RunError:
        """What takes the memory, and the two options that help most.

        Args:
            views, activations: what they take, infinite if more than is left. None: as computed, or not known.
        """
        free_memory()
        config, state, count, reason = self.config, self.state, self.count, self._whole_batch_reason()
        heads = attempt(partial(head_bytes, state, count=count))
        at_once = count if reason is not None else piece_sizes(count)[-1]
        shares: list[tuple[str, float | None]] = [
            ("weights, gradients and optimizer", model_bytes(state)),
            (f"views of {count} images", view_bytes(config, count) if views is None else views),
            (f"heads and loss of {count} images", math.inf if heads is None else heads),
            (f"activations of {at_once} images", activations),
        ]
        taken = ", ".join(f"{name} {_in_words(size)}" for name, size in shares if size is not None)
        options = self._options([size or 0.0 for _, size in shares])
        cut = f"The batch cannot be cut: {reason}. " if reason is not None else ""
        memory = device_memory(state.device)
        there = f", which has {memory.available() / GIB:.1f} GiB for this run" if memory is not None else ""
        return RunError(
            f"{at_once} images at once do not fit on {state.device}{there}: {taken}. {cut}Two options help most: "
            f"{' and '.join(options)}. {self.folder.resume_advice}, also with --encoder.grad-checkpointing; other "
            "options start another run, which needs another --out",
            kind="memory",
            options=options[:1] if options[0] == "--encoder.grad-checkpointing" else (),
        )

    def _options(self, shares: list[float]) -> list[str]:
        """What helps against the largest shares: weights, views, heads, activations."""
        heads = "--framework.prototypes" if "prototypes" in to_dict(self.config.framework) else "--framework.hidden-dim"
        helps = [
            ["a smaller --encoder.name", "a smaller --batch-size"],
            ["a smaller --batch-size", "a smaller --views.size"],
            ["a smaller --batch-size", f"a smaller {heads}"],
            ["a smaller --views.size", "a smaller --encoder.name"],
        ]
        if not self.config.encoder.grad_checkpointing:
            helps[3].insert(0, "--encoder.grad-checkpointing")
        ranked = [
            option for _, options in sorted(zip(shares, helps), key=lambda pair: -pair[0]) for option in options[:2]
        ]
        return list(dict.fromkeys(ranked))[:2]


def _in_words(size: float) -> str:
    if math.isinf(size):
        return "more than is left"
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else "below 0.1 GiB"
