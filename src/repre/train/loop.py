"""The training loop, top to bottom: build, restore, step, log, look, save, hand over.

Randomness has no state: the order, the views and the drop path of a step are functions of the seed and the step. So a
checkpoint holds no generators, a resumed run is bit-equal to one that never stopped (on the same CPU machine, threads
and versions), and nothing that only looks at the run can change it.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from repre.checkpoint import load_latest, save_checkpoint, write_json
from repre.config import RunConfig, to_dict
from repre.data.loader import Loader
from repre.data.sources import Source, open_source
from repre.data.views import make_views
from repre.errors import RunError, UserError
from repre.model import RePre, build_model
from repre.ops.device import pick_device, pick_precision, pick_workers
from repre.ops.dist import any_rank, barrier, is_main, mean_over_ranks, process_group, rank, world
from repre.ops.progress import Progress
from repre.ops.schedule import step_seed
from repre.ops.signals import Interrupted, StopRequest
from repre.optim import build_optimiser, set_schedule
from repre.train.balance import advice
from repre.train.monitors import WeightChange, step_figures
from repre.train.run_folder import RunFolder
from repre.train.step import check_pieces, culprit, forward_backward
from repre.train.trackers import Tracker, open_trackers
from repre.train.watch import Look, Watch
from repre.types import Batch, Losses

FP16_SKIPS = 20
"""Steps in a row that fp16 may skip because its gradient scale was too high; beyond, the run is broken."""


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
    looks: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    balance: str | None
    monitor_seconds: float
    probe_seconds: float
    unreadable: int
    costs: dict[str, Any]


def train(config: RunConfig, *, look: Look | None = None) -> Path:
    """Runs, or goes on with, the run of a config; gives its folder.

    Raises:
        UserError: the config does not fit the data, the encoder or what already lies in the folder.
        Interrupted: a signal asked to stop; the run is saved and the same call goes on with it.
        RunError: the run cannot go on; the last checkpoint is intact.
    """
    device, folder = pick_device(config.runtime.device), RunFolder(config.out)
    with process_group(device):
        finished = folder.claim(config) if is_main() else False
        if any_rank(finished, device):
            if is_main():
                print(f"{folder.path} is a finished run of this config; nothing to do")
            return folder.path
        with StopRequest() as stop:
            _Run(config, folder, device, look).go(stop)
    return folder.path


class _Run:
    """One process's part in a run. Built from the config, restored from the last checkpoint where there is one."""

    def __init__(self, config: RunConfig, folder: RunFolder, device: torch.device, look: Look | None) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.precision = pick_precision(config.compute.precision, self.device)
        self.source: Source = open_source(config.data, channels=config.encoder.channels, canvas=config.canvas)

        self.model: RePre = build_model(
            encoder=config.encoder_at_size,
            framework=config.framework,
            decoder=config.decoder,
            reconstruction=config.reconstruction,
            seed=config.seed,
        ).to(self.device)
        self.model.train()
        check_pieces(self.model.encoder, micro_batch=config.compute.micro_batch)
        self.optimiser = build_optimiser(config.optim, self.model, keep=self.model.encoder.no_weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        if config.compute.compile:
            self.model.encoder.compile()

        self.step = 0
        self.seconds = 0.0
        self.broken: dict[int, str] = {}
        self.seen = 0
        self.watch: Watch | None = None
        if is_main():
            self.watch = Watch(config, folder, self.source, self.device, probe=look, say=self.say)
        self.restore()

        self.loader = Loader(
            self.source,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            canvas=config.canvas,
            workers=pick_workers(config.runtime.workers),
            start=self.step,
            rank=rank(),
            world=world(),
            keep_values=config.views.value_range is not None,
            pin=self.device.type == "cuda",
        )
        self.trackers: list[Tracker] = []
        if is_main():
            self.trackers = open_trackers(
                config.runtime.trackers,
                folder.tensorboard,
                run=folder.path,
                start=self.step,
                config=to_dict(config),
            )

    # ------------------------------------------------------------------------------------------------ the run

    def go(self, stop: StopRequest) -> None:
        config, total = self.config, self.loader.total_steps
        self.announce()
        if self.step == 0:
            self.check()
        progress_bar = Progress(
            start=self.step, total=total, steps_per_epoch=self.loader.steps_per_epoch, shown=is_main()
        )
        self.bar = progress_bar
        saved_at = begun = time.monotonic()
        spent_before = self.seconds
        waited = logged_wait = 0.0
        logged_at, logged_step = begun, self.step
        skipped = 0
        losses: Losses | None = None

        batches = iter(self.loader)
        while self.step < total:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            self.note_unreadable(batch)

            progress = self.step / total
            lr = set_schedule(self.optimiser, config.optim, progress=progress, batch=config.batch_size)
            views = make_views(batch, config.views, seed=config.seed, device=self.device)
            losses = forward_backward(
                self.model,
                views,
                progress=progress,
                seed=step_seed(config.seed, self.step),
                micro_batch=config.compute.micro_batch,
                precision=self.precision,
                scale=self.scaler.get_scale(),
            )
            self.scaler.unscale_(self.optimiser)
            norm = clip_gradients(self.model, config.optim.clip)
            total_loss = mean_over_ranks(losses.total.detach())

            logged = (self.step + 1) % config.runtime.log_every == 0 or self.step + 1 == total
            change = WeightChange(self.model.encoder) if logged and config.runtime.monitors else None
            if torch.isfinite(total_loss + norm):
                skipped = 0
                self.model.framework.before_step(progress)
                self.scaler.step(self.optimiser)
                self.model.framework.after_step(self.model.encoder, losses.diagnostics, progress)
            elif self.precision is torch.float16 and torch.isfinite(total_loss) and skipped < FP16_SKIPS:
                skipped += 1
            else:
                raise self.diverged(losses, batch)
            self.scaler.update()
            self.optimiser.zero_grad(set_to_none=True)
            self.step += 1
            self.seen = min(self.seen + config.batch_size, len(self.source))

            now = time.monotonic()
            self.seconds = spent_before + now - begun
            row = None
            if logged:
                images = (self.step - logged_step) * config.batch_size
                row = self.row(losses, norm, lr) | {
                    "images_per_s": images / (now - logged_at),
                    "data_wait": (waited - logged_wait) / (now - logged_at),
                }
                row |= {name: float(value) for name, value in change.figures().items()} if change else {}
                logged_at, logged_step, logged_wait = now, self.step, waited
                self.log(row)
            progress_bar.update(self.step, row)

            if self.step % (self.loader.steps_per_epoch * config.runtime.check_every) == 0 or self.step == total:
                self.check()
                self.save()
                saved_at = logged_at = time.monotonic()
            elif any_rank(stop.signal is not None, self.device):
                self.save()
                progress_bar.close()
                raise Interrupted(
                    f"stopped at step {self.step} of {total}; everything is saved in {self.folder.path}, "
                    "the same command goes on from here",
                    code=128 + (stop.signal or 15),
                )
            elif time.monotonic() - saved_at > 60 * config.runtime.checkpoint_minutes:
                self.save()
                saved_at = time.monotonic()

        progress_bar.close()
        self.finish(spent=time.monotonic() - begun, waited=waited)

    # ------------------------------------------------------------------------------------------------ saving

    def save(self) -> None:
        if self.watch is not None:
            save_checkpoint(
                self.folder.last,
                {
                    "config": to_dict(self.config),
                    "step": self.step,
                    "seconds": self.seconds,
                    "best": self.watch.best,
                    "looks": self.watch.looks,
                    "unreadable": dict(self.broken),
                    "seen": self.seen,
                    "model": self.model.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "scaler": self.scaler.state_dict(),
                },
                keep=self.folder.previous,
            )
            self.folder.write_csv()
        barrier()

    def restore(self) -> None:
        found = load_latest(self.folder.last, self.folder.previous, device=self.device)
        if found is None:
            return
        (state, note), path = found, self.folder.last
        if note is not None:
            self.say(note)
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
            raise UserError(f"{path} is a checkpoint of another model ({reason[:300]}); name another --out") from error
        self.step, self.seconds, self.seen = state["step"], state["seconds"], state["seen"]
        self.broken = state["unreadable"]
        if self.watch is not None:
            self.folder.trim_metrics(self.step)
            self.watch.restore(state["looks"], state["best"], self.folder.read_metrics())

    def finish(self, *, spent: float, waited: float) -> None:
        if self.watch is not None:
            looks = self.watch.looks
            mean, std = (s.flatten().tolist() for s in self.config.views.statistics(self.config.encoder.channels))
            self.model.kept_encoder.save(self.folder.encoder, mean=mean, std=std)
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
                looks=looks,
                alarms=self.watch.health.as_dicts(),
                balance=advice(looks[-1]),
                monitor_seconds=sum(look.get("look_seconds", 0.0) for look in looks),
                probe_seconds=sum(look.get("probe_seconds", 0.0) for look in looks),
                unreadable=len(self.broken),
                costs=self.costs(),
            )
            write_json(self.folder.summary, asdict(summary))
            for tracker in self.trackers:
                tracker.close()
        barrier()

    # ------------------------------------------------------------------------------------------------ looking

    def announce(self) -> None:
        """What is about to run, and what the branch costs."""
        costs = self.costs()
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

    def check(self) -> None:
        """A look at the model, on the main process only; the others wait."""
        if self.watch is not None:
            figures = self.watch.check(self.model, step=self.step, total=self.loader.total_steps)
            for tracker in self.trackers:
                tracker.log(
                    {f"check/{k}": v for k, v in figures.items() if v is not None and k != "step"}, step=self.step
                )
        barrier()

    def row(self, losses: Losses, norm: Tensor, lr: float) -> dict[str, Any]:
        """One line of metrics: means over ranks."""
        values: dict[str, Tensor] = {"loss": losses.total, "contrastive": losses.contrastive}
        if losses.pixel is not None:
            values["pixel"] = losses.pixel
        values |= step_figures(losses.diagnostics)
        means = {name: float(mean_over_ranks(value.detach().float())) for name, value in values.items()}
        epoch = self.step / self.loader.steps_per_epoch
        return {"step": self.step, "epoch": round(epoch, 4), **means, "grad_norm": float(norm), "lr": lr}

    def log(self, row: dict[str, Any]) -> None:
        if self.watch is not None:
            self.folder.append_metrics(row)
            self.watch.observe("step", row)
            for tracker in self.trackers:
                tracker.log(row, step=self.step)

    def say(self, text: str) -> None:
        if is_main():
            self.folder.say(text)
            bar = getattr(self, "bar", None)
            bar.say(text) if bar is not None else print(text, flush=True)

    def costs(self) -> dict[str, Any]:
        from repre.decoder import branch_cost

        return asdict(branch_cost(self.model.encoder, self.model.decoder, size=(self.config.views.size,) * 2))

    # ------------------------------------------------------------------------------------------------ trouble

    def note_unreadable(self, batch: Batch) -> None:
        """Counts and lists files that could not be read, and stops the run above the share that is allowed."""
        found = batch.failures
        if world() > 1 and any_rank(bool(found), self.device):
            gathered: list[Any] = [None] * world()
            dist.all_gather_object(gathered, found)
            found = [failure for part in gathered for failure in part]
        new = {index: reason for index, reason in found if index not in self.broken}
        if not new:
            return
        self.broken |= new
        if is_main():
            with open(self.folder.unreadable, "a", encoding="utf-8", errors="surrogateescape") as file:
                for index, reason in new.items():
                    file.write(f"{self.source.describe(index)}\t{reason}\n")
        looked_at = max(min(self.seen + self.config.batch_size, len(self.source)), min(200, len(self.source)))
        if len(self.broken) > self.config.loader.max_unreadable * looked_at:
            index, reason = next(iter(new.items()))
            raise RunError(
                f"{len(self.broken)} of the first {looked_at} files cannot be read, more than "
                f"loader.max_unreadable = {self.config.loader.max_unreadable:.0%} allows; the last one is "
                f"{self.source.describe(index)} ({reason}); all are listed in {self.folder.unreadable}"
            )

    def diverged(self, losses: Losses, batch: Batch) -> RunError:
        files = ", ".join(self.source.describe(int(i)) for i in batch.indices[:4])
        last = (
            f"the last good checkpoint is {self.folder.last}" if self.folder.last.is_file() else "nothing was saved yet"
        )
        return RunError(
            f"step {self.step + 1} is not finite: {culprit(self.model, losses)}; the batch began with {files}; {last}. "
            "A lower --optim.lr, a longer --optim.warmup or --optim.clip 1.0 usually helps"
        )


def clip_gradients(model: torch.nn.Module, limit: float | None) -> Tensor:
    """Norm of the whole gradient before clipping it to `limit`; without a limit it is only measured."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf") if limit is None else limit)
