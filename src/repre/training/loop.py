"""The training loop, top to bottom: build, restore, step, log, look, save, hand over.

Randomness has no state: the order, the views and the drop path of a step are functions of the seed and the step. So a
checkpoint holds no generators, a resumed run is bit-equal to one that never stopped (on the same CPU machine, threads
and versions), and nothing that only looks at the run can change it.
"""

import copy
import errno
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import torch
from torch import Tensor

from repre.config import RunConfig, to_dict
from repre.data.io.sources import Source, open_source
from repre.data.loading.loader import Loader
from repre.data.loading.manifest import apply_manifest, write_manifest
from repre.data.views.render import make_views
from repre.errors import RunError, UserError
from repre.models.decoder import branch_cost
from repre.models.encoder import Encoder
from repre.models.repre import RePre, build_model
from repre.training.checkpoint import load_latest, save_checkpoint
from repre.training.failures import FailureTracker
from repre.training.monitoring.gradient_balance import advice
from repre.training.monitoring.label_free import WeightChange, step_figures
from repre.training.monitoring.validator import Probe, Validator
from repre.training.nonfinite import save_buffers
from repre.training.optim import build_optimizer, set_schedule
from repre.training.run_folder import RunFolder
from repre.training.step import forward_backward, validate_micro_batch
from repre.training.trackers import Tracker, open_trackers
from repre.types import Batch, Losses, Views
from repre.utils.device import hand_freed_memory_back, pick_device, pick_precision, pick_workers
from repre.utils.dist import any_rank, barrier, is_main_process, mean_over_ranks, process_group, rank, world_size
from repre.utils.fsdp import distribute_like, full_tensors, local_tensor, shard, total_norm
from repre.utils.io import write_json
from repre.utils.progress import Progress
from repre.utils.schedule import step_seed
from repre.utils.signals import Interrupted, StopNow, StopRequest

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the system says of a disk that is full, read-only or broken."""


@dataclass(frozen=True)
class Summary:
    """What a finished run says of itself."""

    steps: int
    epochs: int
    images: int
    seconds: float
    images_per_s: float
    data_wait: float
    final: dict[str, Any]
    best: dict[str, Any]
    validations: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    balance: str | None
    monitor_seconds: float
    probe_seconds: float
    unreadable: int
    changed: int
    skipped: int
    costs: dict[str, Any]


def train(config: RunConfig, *, probe: Probe | None = None) -> Path:
    """Runs, or goes on with, the run of a config; gives its folder.

    Raises:
        UserError: the config does not fit the data, the encoder or what already lies in the folder.
        Interrupted: a signal asked to stop; the run is saved and the same call goes on with it.
        RunError: the run cannot go on; the last checkpoint is intact.
    """
    device, folder = pick_device(config.runtime.device), RunFolder(config.out)
    with process_group(device):
        try:
            finished = folder.claim(config) if is_main_process() else False
            if any_rank(finished, device):
                if is_main_process():
                    print(f"{folder.path} is a finished run of this config; nothing to do")
                return folder.path
            with StopRequest() as stop:
                _Run(config, folder, device, probe).go(stop)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise RunError(
                f"cannot write to {error.filename or folder.path}: {error.strerror}; what was saved is intact. Make room "
                "and give the same command again: it goes on from the last checkpoint"
            ) from error
        finally:
            folder.release()
    return folder.path


class _Run:
    """One process's part in a run. Built from the config, restored from the last checkpoint where there is one."""

    def __init__(self, config: RunConfig, folder: RunFolder, device: torch.device, probe: Probe | None) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.bar: Progress | None = None
        self.precision = pick_precision(config.compute.precision, self.device)
        self.source = self.open_source()

        self.model: RePre = build_model(
            encoder=config.encoder_at_size,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=config.reconstruction,
            seed=config.seed,
        ).to(self.device)
        self.model.train()
        validate_micro_batch(self.model.encoder, config.reconstruction, micro_batch=config.compute.micro_batch)
        self.costs = asdict(branch_cost(self.model.encoder, self.model.decoder, size=(config.views.size,) * 2))
        self.replica: RePre | None = None
        if config.runtime.shard and world_size() > 1:
            self.shard()
        self.optimizer = build_optimizer(config.optim, self.model, keep=self.model.encoder.no_weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        if config.compute.compile:
            self.model.encoder.compile()

        self.step = 0
        self.seconds = 0.0
        self.saved: int | None = None
        self.trouble = FailureTracker(config, folder, self.source, self.device, say=self.say)
        self.watch: Validator | None = None
        if is_main_process():
            self.watch = Validator(config, folder, self.source, self.device, probe=probe, say=self.say)
        self.restore()

        self.render = partial(make_views, config=config.rendered_views, seed=config.seed, device=self.device)
        self.loader = Loader(
            self.source,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            canvas=config.decode_size,
            workers=pick_workers(config.runtime.workers),
            start=self.step,
            rank=rank(),
            world_size=world_size(),
            keep_values=config.views.value_range is not None,
            pin=self.device.type == "cuda",
            render=self.render if self.device.type == "cpu" else None,
        )
        self.trackers: list[Tracker] = []
        if is_main_process():
            self.trackers = open_trackers(
                config.runtime.trackers,
                folder.tensorboard,
                run=folder.path,
                start=self.step,
                config=to_dict(config),
            )

    # ------------------------------------------------------------------------------------------------ the run

    def go(self, stop: StopRequest) -> None:
        try:
            self._go(stop)
        except RuntimeError as error:  # of a worker that died, torch tells wherever the training process happens to be
            if (explained := self.loader.explain(error)) is None:
                raise
            raise explained from error

    def _go(self, stop: StopRequest) -> None:
        config, total = self.config, self.loader.total_steps
        self.announce()
        if self.look_is_missing():
            self.check(stop)
            if self.step:
                self.save()
        self.leave_if_asked(stop)
        progress_bar = Progress(
            start=self.step, total=total, steps_per_epoch=self.loader.steps_per_epoch, shown=is_main_process()
        )
        self.bar = progress_bar
        saved_at = begun = time.monotonic()
        spent_before = self.seconds
        waited = logged_wait = 0.0
        logged_at, logged_step = begun, self.step
        losses: Losses | None = None

        hand_freed_memory_back()
        batches = iter(self.loader)
        shown = self.next_views(batches, stop) if self.step < total else None
        while self.step < total:
            self.leave_if_asked(stop)
            assert shown is not None, "only a stop ends the waiting for data, and that has left"
            batch, views, wait = shown
            waited += wait
            self.trouble.note_files(batch)

            progress = self.step / total
            lr = set_schedule(self.optimizer, config.optim, progress=progress, batch=config.batch_size)
            seed = step_seed(config.seed, self.step)
            put_back = save_buffers(self.model.encoder) if config.runtime.not_finite == "skip" else None
            losses = forward_backward(
                self.model,
                views,
                progress=progress,
                seed=seed,
                micro_batch=config.compute.micro_batch,
                precision=self.precision,
                scale=self.scaler.get_scale(),
            )
            self.scaler.unscale_(self.optimizer)
            length = gradient_norm(self.model)
            total_loss = mean_over_ranks(losses.total.detach())

            # The host waits below until the device knows whether this step is finite. The next views give it work meanwhile.
            shown = self.next_views(batches, stop) if self.step + 1 < total else None
            logged = (self.step + 1) % config.runtime.log_every == 0 or self.step + 1 == total
            change = WeightChange(self.model.encoder) if logged and config.runtime.monitors else None
            if torch.isfinite(total_loss + length):
                self.trouble.sound()
                clip_gradients(self.model, length, config.optim.clip_grad_norm)
                self.model.framework.before_step(progress)
                self.scaler.step(self.optimizer)
                self.model.framework.after_step(self.model.encoder, losses.diagnostics, progress)
            elif not (self.precision is torch.float16 and torch.isfinite(total_loss) and self.trouble.overflow()):
                self.trouble.not_finite(
                    self.model, losses, views, batch, step=self.step + 1, seed=seed, precision=self.precision
                )
                if put_back is not None:
                    put_back()
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.trouble.seen = min(self.trouble.seen + config.batch_size, len(self.source))

            now = time.monotonic()
            self.seconds = spent_before + now - begun
            row = None
            if logged:
                images = (self.step - logged_step) * config.batch_size
                row = self.row(losses, length, lr) | {
                    "images_per_s": images / (now - logged_at),
                    "data_wait": (waited - logged_wait) / (now - logged_at),
                }
                row |= {name: float(value) for name, value in change.figures().items()} if change else {}
                logged_at, logged_step, logged_wait = now, self.step, waited
                self.log(row)
            progress_bar.update(self.step, row)

            if self.check_is_due():
                self.check(stop)
                self.save()
                saved_at = logged_at = time.monotonic()
            elif time.monotonic() - saved_at > 60 * config.runtime.checkpoint_minutes:
                self.save()
                saved_at = time.monotonic()

        self.leave_if_asked(stop)
        progress_bar.close()
        self.finish(spent=time.monotonic() - begun, waited=waited)

    def next_views(self, batches: Iterator[Batch], stop: StopRequest) -> tuple[Batch, Views, float] | None:
        """The next batch, its views, and the seconds that were waited for it; None where a signal ended the waiting."""
        asked = time.monotonic()
        try:
            with stop.breaks(world_size() == 1):  # several processes can only leave together, at the next step
                batch = next(batches)
        except StopNow:
            return None
        waited = time.monotonic() - asked
        return batch, batch.views or self.render(batch), waited

    def leave_if_asked(self, stop: StopRequest) -> None:
        """Saves and ends the run where a signal reached any of its processes; a collective call."""
        if not any_rank(stop.signal is not None, self.device):
            return
        if self.saved != self.step:
            self.save()
        if self.bar is not None:
            self.bar.close()
        raise Interrupted(
            f"stopped at step {self.step} of {self.loader.total_steps}; everything is saved in {self.folder.path}, the same "
            "command goes on from here",
            code=128 + (stop.signal or SIGTERM),
        )

    # ------------------------------------------------------------------------------------------------ sharding

    def shard(self) -> None:
        """Splits the encoders over the processes; the main one keeps a whole copy on the CPU, for looks and files."""
        if self.config.compute.compile or self.precision is torch.float16:
            raise UserError(
                "runtime.shard goes with neither compute.compile nor compute.precision fp16; leave one of them"
            )
        if is_main_process():
            self.replica = copy.deepcopy(self.model).cpu()
        for module in [m for m in self.model.modules() if isinstance(m, Encoder)]:
            shard(module, device=self.device)

    def full_model(self) -> RePre:
        """The model with all its weights, on the main process; a collective call."""
        if not self.config.runtime.shard or world_size() == 1:
            return self.model
        state = full_tensors(self.model.state_dict())
        if self.replica is None:
            return self.model
        self.replica.load_state_dict(state)
        return self.replica

    # ------------------------------------------------------------------------------------------------ saving

    def save(self) -> None:
        """A checkpoint by the main process; where it fails, all end."""
        self.trouble.refuse_broken_weights(self.model, step=self.step)
        failed: Exception | None = None
        model, optimizer = full_tensors(self.model.state_dict()), full_tensors(self.optimizer.state_dict())
        if self.watch is not None:
            state = {
                "config": to_dict(self.config),
                "step": self.step,
                "seconds": self.seconds,
                "best": self.watch.best,
                "validations": self.watch.validations,
                **self.trouble.state(),
                "model": model,
                "optimizer": optimizer,
                "scaler": self.scaler.state_dict(),
            }
            try:
                self.folder.sync()
                save_checkpoint(self.folder.last, state, backup=self.folder.previous)
                self.folder.write_csv()
            except (OSError, RunError) as error:
                failed = error
        if any_rank(failed is not None, self.device):
            raise failed or RunError("the main process could not save the run; it says why")
        self.saved = self.step

    def open_source(self) -> Source:
        """The images, by the list that the run began with."""
        config, folder = self.config, self.folder
        source = open_source(config.data, channels=config.encoder.channels, canvas=config.decode_size)
        if is_main_process() and not (folder.last.is_file() or folder.previous.is_file()):
            write_manifest(source, folder.files)
        barrier()
        source, note = apply_manifest(source, folder.files)
        if note is not None:
            self.say(note)
        return source

    def restore(self) -> None:
        found = load_latest(self.folder.last, self.folder.previous, device=self.device)
        if found is None:
            if is_main_process():
                self.folder.trim(0)
            return
        (state, note), path = found, self.folder.last
        if note is not None:
            self.say(note)
        try:
            mine = self.model.state_dict()
            self.model.load_state_dict({n: distribute_like(v, mine.get(n, v)) for n, v in state["model"].items()})
            load_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
            raise UserError(f"{path} is a checkpoint of another model ({reason[:300]}); name another --out") from error
        self.step, self.seconds, self.saved = state["step"], state["seconds"], state["step"]
        if is_main_process():
            self.folder.trim(self.step)
        self.trouble.restore(state)
        if self.watch is not None:
            self.watch.restore(state["validations"], state["best"], self.folder.read_metrics())

    def finish(self, *, spent: float, waited: float) -> None:
        model = self.full_model()
        if self.watch is not None:
            validations = self.watch.validations
            mean, std = (s.flatten().tolist() for s in self.config.views.statistics(self.config.encoder.channels))
            value_range = self.config.views.value_range
            model.export_encoder.save(self.folder.encoder, mean=mean, std=std, value_range=value_range)
            self.folder.write_csv()
            rows = self.folder.read_metrics()
            summary = Summary(
                steps=self.step,
                epochs=self.config.epochs,
                images=self.step * self.config.batch_size,
                seconds=self.seconds,
                images_per_s=self.step * self.config.batch_size / max(self.seconds, 1e-9),
                data_wait=waited / max(spent, 1e-9),
                final=rows[-1] if rows else {},
                best=self.watch.best,
                validations=validations,
                alarms=self.watch.health.as_dicts(),
                balance=advice(validations[-1]),
                monitor_seconds=sum(one.get("validation_seconds", 0.0) for one in validations),
                probe_seconds=sum(one.get("probe_seconds", 0.0) for one in validations),
                unreadable=len(self.trouble.broken),
                changed=len(self.trouble.changed),
                skipped=self.trouble.skipped,
                costs=self.costs,
            )
            write_json(self.folder.summary, asdict(summary))
            for tracker in self.trackers:
                tracker.close()
        barrier()

    # ------------------------------------------------------------------------------------------------ looking

    def announce(self) -> None:
        """What is about to run, and what the branch costs."""
        costs = self.costs
        words = (
            f"{len(self.source)} images of {self.config.data}, {self.loader.steps_per_epoch} steps per epoch, "
            f"{self.loader.total_steps} in all; {self.device}, {str(self.precision).removeprefix('torch.')}"
        )
        self.say(words if self.step == 0 else f"{words}; going on from step {self.step}")
        encoder = f"encoder {costs['encoder_parameters'] / 1e6:.2f} M parameters"
        if self.model.decoder is None:
            self.say(f"{encoder}; no reconstruction branch")
        else:
            self.say(
                f"{encoder}; decoder {costs['decoder_parameters'] / 1e6:.2f} M "
                f"({100 * costs['decoder_parameters'] / costs['encoder_parameters']:.1f} %), "
                f"{100 * costs['decoder_flops'] / costs['encoder_flops']:.1f} % of the encoder's forward FLOPs"
            )

    def check_is_due(self) -> bool:
        every = self.loader.steps_per_epoch * self.config.runtime.eval_every_epochs
        return self.step % every == 0 or self.step == self.loader.total_steps

    def look_is_missing(self) -> bool:
        """Whether a check is due that was not taken: at the start, or where the run was stopped in it."""
        if self.watch is None:
            missing = False
        else:
            taken = self.watch.validations
            missing = self.check_is_due() and (not taken or taken[-1]["step"] != self.step)
        return any_rank(missing, self.device)

    def check(self, stop: StopRequest) -> None:
        """A look at the model, on the main process only; the others wait. A signal ends it: it is taken again when the run
        goes on."""
        self.trouble.refuse_broken_weights(self.model, step=self.step)
        model = self.full_model()
        if self.watch is not None:
            before = len(self.watch.validations), self.watch.best
            try:
                with stop.breaks():
                    figures = self.watch.check(model.to(self.device), step=self.step, total=self.loader.total_steps)
            except StopNow:
                del self.watch.validations[before[0] :]
                self.watch.best = before[1]
                figures = {}
            if self.replica is not None:
                self.replica.cpu()
            for tracker in self.trackers:
                tracker.log(
                    {f"check/{k}": v for k, v in figures.items() if v is not None and k != "step"}, step=self.step
                )
        barrier()

    def row(self, losses: Losses, length: Tensor, lr: float) -> dict[str, Any]:
        """One line of metrics: means over ranks."""
        values: dict[str, Tensor] = {"loss": losses.total, "contrastive": losses.contrastive}
        if losses.pixel is not None:
            values["pixel"] = losses.pixel
        values |= step_figures(losses.diagnostics)
        means = {name: float(mean_over_ranks(value.detach().float())) for name, value in values.items()}
        epoch = self.step / self.loader.steps_per_epoch
        return {"step": self.step, "epoch": round(epoch, 4), **means, "grad_norm": float(length), "lr": lr}

    def log(self, row: dict[str, Any]) -> None:
        if self.watch is not None:
            self.folder.append_metrics(row)
            self.watch.observe("step", row)
            for tracker in self.trackers:
                tracker.log(row, step=self.step)

    def say(self, text: str) -> None:
        if is_main_process():
            self.folder.say(text)
            shown = text.encode("utf-8", "backslashreplace").decode()  # a terminal takes no names that are not UTF-8
            self.bar.say(shown) if self.bar is not None else print(shown, flush=True)


def gradient_norm(model: torch.nn.Module) -> Tensor:
    """Norm of the whole gradient."""
    return total_norm([p.grad for p in model.parameters() if p.grad is not None])


def clip_gradients(model: torch.nn.Module, length: Tensor, limit: float | None) -> None:
    """Shortens the whole gradient, of this length, to `limit`."""
    if limit is not None:
        gradients = [local_tensor(p.grad) for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, (limit / (length + 1e-6)).clamp(max=1.0))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes back a state of whole tensors, also where the parameters are split."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    mine = {
        number: {
            name: distribute_like(v, parameters[number]) if isinstance(v, Tensor) else v for name, v in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": mine})
