"""The training loop, top to bottom: build, restore, then data, step, log, validate, save; at the end export.

Randomness has no state: the order, the views and the drop path of a step are functions of the seed and the step. So a
checkpoint holds no generators, a resumed run is bit-equal to one that never stopped (on the same CPU machine, threads
and versions), and nothing that only observes the run can change it.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch

from repre.config import RunConfig
from repre.config_values import to_dict
from repre.data.loading.feeder import Feeder
from repre.data.views.render import make_views
from repre.errors import RunError, counted
from repre.training.failures import FailureTracker, failures_in_words
from repre.training.kept_checkpoints import KeptCheckpoints
from repre.training.micro_batch import MicroBatch
from repre.training.monitoring.step_metrics import WeightChange
from repre.training.monitoring.validator import Probe, Validator
from repre.training.nonfinite import save_buffers
from repre.training.rank_check import check_ranks_agree
from repre.training.run_folder import RunFolder
from repre.training.run_log import RunLog, Throughput, metrics_row
from repre.training.run_source import build_loader, open_run_source
from repre.training.run_state import RunState
from repre.training.run_summary import describe_cost, save_for_use, write_summary
from repre.training.start_from import Start, open_start
from repre.training.step import StepResult, train_step
from repre.types import Batch, Views
from repre.utils.device import pick_device, release_freed_memory
from repre.utils.dist import any_rank, barrier, is_main_process, process_group, world_size
from repre.utils.schedule import step_seed
from repre.utils.signals import Interrupted, StopNow, StopRequest


def train(config: RunConfig, *, probe: Probe | None = None) -> Path:
    """Trains, or resumes, the run of a config; returns its folder.

    Args:
        probe: a further measurement at every validation; see `Probe`.

    Raises:
        UserError: the config does not fit the data, the encoder or what the folder already holds.
        Interrupted: a signal asked to stop; the run is saved and the same call resumes it.
        RunError: the run cannot continue; the last checkpoint is intact.
    """
    device, folder = pick_device(config.runtime.device), RunFolder(config.out)
    with process_group(device, stuck_minutes=config.runtime.stuck_minutes):
        try:
            config, start = open_start(config, folder)
            finished = folder.prepare(config) if is_main_process() else False
            if any_rank(finished, device):
                if is_main_process():
                    print(f"{folder.path} is a finished run of this config; nothing to do")
                return folder.path
            with StopRequest() as stop, failures_in_words(config, folder):
                Trainer(config, folder, device, probe, start).run(stop)
        finally:
            folder.release()
    return folder.path


class Trainer:
    """One process of a run: built from the config, restored from its last checkpoint or else from the run it starts from."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, device: torch.device, probe: Probe | None, start: Start | None
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.log = RunLog(config, folder)
        self.source, warning = open_run_source(config, folder, start)
        self.log.message(warning)
        steps_per_epoch = len(self.source) // config.batch_size
        steps = config.epochs * steps_per_epoch
        self.kept = KeptCheckpoints(config, folder, steps_per_epoch=steps_per_epoch, total=steps)
        self.state = RunState(config, device, images=steps * config.batch_size)
        self.micro_batch = MicroBatch(config, folder, self.state, log=self.log.message)
        self.failures = FailureTracker(config, folder, self.source, device, log=self.log.message)
        self.validator: Validator | None = None
        on_cpu, views = device.type == "cpu", self.state.views
        if is_main_process():
            self.validator = Validator(config, views, folder, self.source, device, probe=probe, log=self.log.message)
        self.step, self.first_step, self.seconds, self.saved_step = 0, 0, 0.0, -1
        self.start: dict[str, Any] | None = None
        self.no_data: RunError | None = None
        self._restore(start)
        check_ranks_agree(config, step=self.step)

        dtype, crops = torch.float32 if on_cpu else self.state.precision, self.state.model.framework.needs.crops
        self.render: Callable[[Batch], Views] = partial(
            make_views, config=views, seed=config.seed, device=device, dtype=dtype, with_crops=crops
        )
        self.loader = build_loader(
            config, self.source, views, start=self.step, render=self.render, device=device, log=self.log.message
        )
        self.log.open_trackers(step=self.step)

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self, stop: StopRequest) -> None:
        """Trains to the end.

        Raises:
            Interrupted: a signal reached any of the processes; the run is saved.
        """
        config, total, epoch = self.config, self.loader.total_steps, self.loader.steps_per_epoch
        precision = str(self.state.precision).removeprefix("torch.")
        size = f"{len(self.source)} images of {config.data_name}, {counted(epoch, 'step')} per epoch, {total} in all"
        resuming = f"; resuming from step {self.step}" if self.step > self.first_step else ""
        self.log.message(f"{size}; {self.device}, {precision}{resuming}")
        self.log.message(describe_cost(self.state.branch_cost, config.decoder))
        if self.start is not None and self.saved_step < 0:
            self._save()  # from here on the run does not need the other one
        if self._validation_is_missing():
            self._validate(stop)
            if self.step:
                self._save()
        self._leave_if(any_rank(stop.signal is not None, self.device), stop)
        self.log.start_progress(step=self.step, total=total, steps_per_epoch=self.loader.steps_per_epoch)
        peak = self.state.peak_images_per_s()
        throughput = Throughput(batch_size=config.batch_size, step=self.step, peak_images_per_s=peak)
        begin = saved_at = time.monotonic()
        seconds_before = self.seconds

        release_freed_memory()
        self.feeder = Feeder(self.loader, self.render, self.device)
        self._prepare(throughput, stop, more=self.step < total, copy_weights=False)
        if self.feeder.upcoming is not None:
            self.micro_batch.choose(self.feeder.upcoming, progress=config.progress_at(self.step, total=total))
        while self.step < total:
            self._leave_if(self.no_data is not None or (world_size() == 1 and stop.signal is not None), stop)
            batch, views = self.feeder.take()
            last = self.step + 1 == total
            log_this = last or (self.step + 1) % config.runtime.log_every == 0
            save_due = time.monotonic() - saved_at > 60 * config.runtime.checkpoint_minutes
            prepare = partial(self._prepare, throughput, stop, more=not last, copy_weights=log_this)
            result = self._step(batch, views, stop, save_due=save_due, overlap=prepare)
            self.step += 1
            self.failures.seen = min(self.failures.seen + config.batch_size, len(self.source))
            self.seconds = seconds_before + time.monotonic() - begin

            row = None
            if log_this:
                row = metrics_row(self.state.model, result, step=self.step, steps_per_epoch=epoch, change=self.change)
                row |= throughput.read(self.step)
                self.log.metrics(row, step=self.step)
                if self.validator is not None:
                    self.validator.observe("step", row)
            self.log.update_progress(self.step, row)

            stop_requested, _, save_due = result.flags
            if self._validation_is_due():
                with throughput.paused():
                    self._validate(stop)
                    self._save()
                saved_at = time.monotonic()
                stop_requested = any_rank(stop.signal is not None, self.device)
            elif save_due or self.kept.due(self.step):
                with throughput.paused():
                    self._save()
                saved_at = time.monotonic()
            self._leave_if(stop_requested, stop)

        self._leave_if(any_rank(stop.signal is not None, self.device), stop)
        self._finish(data_wait=throughput.total_waited / max(time.monotonic() - begin, 1e-9))

    def _prepare(self, throughput: Throughput, stop: StopRequest, *, more: bool, copy_weights: bool) -> None:
        """Work for the host while the device computes: the next batch and its views, a copy of weights about to change.

        If a signal ends the wait for data, or no data can be had, there is no next batch, and the run leaves its loop.
        """
        if more:
            alone = world_size() == 1  # several processes can only leave together, after a step
            try:
                with suppress(StopNow), stop.interruptible(alone), self.micro_batch.views_explained():
                    self.feeder.advance()
                    throughput.add_wait(self.feeder.waited)
            except RunError as error:
                if not alone or error.kind not in ("disk", "data", "worker"):
                    raise
                self.no_data = error
        copy_weights = copy_weights and self.config.runtime.monitors
        self.change = WeightChange(self.state.model.encoder) if copy_weights else None

    def _step(
        self, batch: Batch, views: Views, stop: StopRequest, *, save_due: bool, overlap: Callable[[], None]
    ) -> StepResult:
        """One training step, and what follows if it is not finite or if files could not be read.

        The flags of the result: a signal reached a rank, a rank met a bad file, a checkpoint is due.
        """
        config, state = self.config, self.state
        progress = config.progress_at(self.step, total=self.loader.total_steps)
        seed = step_seed(config.seed, self.step)
        skip = config.runtime.not_finite == "skip"
        restore_buffers = save_buffers(state.model.encoder) if skip else None
        result = self.micro_batch.repeat(
            lambda size: train_step(
                state.model,
                state.optimizer,
                views,
                optim=config.optim,
                batch_size=config.batch_size,
                progress=progress,
                seed=seed,
                micro_batch=size,
                precision=state.precision,
                scaler=state.scaler,
                flags=(stop.signal is not None, self.failures.concerns(batch), save_due),
                overlap=overlap,
            )
        )
        if result.flags[1]:
            self.failures.add_files(batch)
        overflow = state.scaler.is_enabled() and math.isfinite(result.loss)
        if result.finite:
            self.failures.mark_finite()
        elif not (overflow and self.failures.may_skip_overflow()):
            self.failures.add_nonfinite(
                state.model,
                result.losses,
                views,
                batch,
                step=self.step + 1,
                seed=seed,
                micro_batch=self.micro_batch.size,
                precision=state.precision,
            )
            if restore_buffers is not None:
                restore_buffers()
        return result

    def _leave_if(self, requested: bool, stop: StopRequest) -> None:
        """Saves and ends the run if a stop was requested or no data can be had, on all processes alike; collective if so."""
        if not requested:
            return
        if self.saved_step != self.step:
            self._save()
        self.log.close()
        if self.no_data is not None:
            raise self.no_data
        raise Interrupted(
            f"stopped at step {self.step} of {self.loader.total_steps}; everything is saved in {self.folder.path}. Run the "
            "same command again to resume",
            code=128 + (stop.signal or SIGTERM),
        )

    # ------------------------------------------------------------------------------------------------ validating

    def _validation_is_due(self) -> bool:
        every = self.loader.steps_per_epoch * self.config.runtime.eval_every_epochs
        return self.step % every == 0 or self.step == self.loader.total_steps

    def _validation_is_missing(self) -> bool:
        """Whether a validation is due that was not done: at the start, or where the run was stopped in it."""
        due = self.step == self.first_step or self._validation_is_due()
        missing = self.validator is not None and due and self.validator.is_missing(self.step)
        return any_rank(missing, self.device)

    def _validate(self, stop: StopRequest) -> None:
        """Validates on the main process while the others wait. A signal interrupts it; it is repeated on resume."""
        self.failures.refuse_broken_weights(self.state.model, step=self.step)
        model = self.state.full_model()
        if self.validator is not None:
            try:
                with stop.interruptible():
                    metrics = self.validator.validate(model, step=self.step, total=self.loader.total_steps)
                self.log.validation(metrics, step=self.step)
            except StopNow:
                pass
        self.state.release_full_model()
        barrier()

    # ------------------------------------------------------------------------------------------------ saving

    def _save(self) -> None:
        """Saves a checkpoint on the main process; if that fails, all processes end."""
        self.failures.refuse_broken_weights(self.state.model, step=self.step)
        progress = {"config": to_dict(self.config), "step": self.step, "seconds": self.seconds, **self.failures.state()}
        progress |= {"start": self.start, "steps_per_epoch": self.loader.steps_per_epoch}
        failure: Exception | None = None
        try:
            self.state.save(self.folder, progress | (self.validator.state() if self.validator is not None else {}))
            if is_main_process():
                self.kept.keep(self.step)
                self.folder.write_csv()
            if self.validator is not None:
                self.validator.remove_surpassed()
        except (OSError, RunError) as error:
            failure = error
        if any_rank(failure is not None, self.device):
            raise failure or RunError("the main process could not save the run; its message gives the reason")
        self.saved_step = self.step

    def _restore(self, start: Start | None) -> None:
        if (restored := self.state.restore(self.folder)) is None:
            if is_main_process():
                self.folder.discard_after(0)
            self.log.message(self.state.start_weights)
            if start is not None:
                self._take_over(start)
            return
        progress, warning = restored
        if warning is not None:
            self.log.message(warning)
        self.step, self.seconds, self.saved_step = progress["step"], progress["seconds"], progress["step"]
        if (started := progress.get("start")) is not None:
            self.start, self.first_step = started, started["first_step"]
        if is_main_process():
            self.kept.keep(self.step)  # in case the run was killed before
            self.folder.discard_after(self.step)
        self.failures.restore(progress)
        if self.validator is not None:
            self.validator.restore(progress, self.folder.read_metrics())

    def _take_over(self, start: Start) -> None:
        """Starts with the state of another run."""
        resampled = self.state.take_over(start)
        self.start, self.step, self.first_step = start.record, start.first_step, start.first_step
        if start.first_step:
            self.seconds = start.state["seconds"]
        self.log.message(start.describe(resampled))

    def _finish(self, *, data_wait: float) -> None:
        """Exports the encoder and writes the summary; its presence marks the run as finished."""
        model = self.state.full_model()
        if self.validator is not None:
            save_for_use(self.config, model, self.folder)
            write_summary(
                self.folder,
                self.config,
                self.validator,
                self.failures,
                steps=self.step,
                seconds=self.seconds,
                data_wait=data_wait,
                cost=self.state.branch_cost,
                start=self.start,
            )
        self.log.close()
        barrier()
