"""lightly-train's own command on the same timm model: its loader, transforms (albumentations) and Lightning trainer.

Its callbacks (checkpoints, export, learning rate) are left out; a callback of ours times the steps.
"""

import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
import lightly_train
from lightly_train._commands import train_helpers
from pytorch_lightning import Callback, Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from contender import BOTTLENECK, DINO_HIDDEN, HIDDEN, OUT, TEMPERATURE, Clock, Task, build_encoder, save_grid, task


class Timer(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, *_: object) -> None:
        self.clock.ask()

    def on_train_batch_start(self, trainer: object, module: object, batch: dict, number: int) -> None:
        self.clock.got()
        if number == 0 and self.clock.step == 0:
            save_grid(batch["views"], self.clock.job, "lightly-train")

    def on_train_batch_end(self, *_: object) -> None:
        if self.clock.tick():
            self.clock.report(
                "lightly-train",
                does=f"lightly-train {version('lightly-train')}'s pretrain(), albumentations in {self.clock.job.workers} "
                "workers, its callbacks left out",
            )
        self.clock.ask()


def settings(job: Task) -> dict[str, dict]:
    views = {"image_size": (job.size, job.size)}
    if job.method == "simclr":
        head = {"hidden_dim": HIDDEN, "output_dim": OUT, "temperature": TEMPERATURE}
        return {"method_args": head, "transform_args": views | {"random_resize": {"min_scale": 0.08, "max_scale": 1.0}}}
    local = {"view_size": (job.local_size, job.local_size), "num_views": job.n_local}
    local |= {"random_resize": {"min_scale": 0.05, "max_scale": 0.25}}
    return {
        "method_args": {"hidden_dim": DINO_HIDDEN, "bottleneck_dim": BOTTLENECK, "output_dim": job.prototypes},
        "transform_args": views | {"random_resize": {"min_scale": 0.25, "max_scale": 1.0}, "local_view": local},
    }


def main() -> None:
    job = task()
    out = Path(job.out) / "lightly-train"
    shutil.rmtree(out, ignore_errors=True)
    build_trainer = train_helpers.get_trainer

    def timed_trainer(*, callbacks: list[Callback], **more: Any) -> Trainer:
        return build_trainer(callbacks=[Timer(Clock(job))], **more)

    train_helpers.get_trainer = timed_trainer  # it takes callbacks by name only, from a list of its own
    lightly_train.pretrain(
        out=out,
        data=job.images,
        model=build_encoder(job),
        method=job.method,
        epochs=1000,
        batch_size=job.batch,
        num_workers=job.workers,
        devices=1,
        accelerator="gpu" if job.device.startswith("cuda") else "cpu",
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
        optim="adamw",
        optim_args={"lr": 1e-4},
        loader_args={"persistent_workers": job.workers > 0, "pin_memory": job.device.startswith("cuda")},
        trainer_args={
            "max_steps": job.warmup + job.steps,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        },
        **settings(job),
    )


if __name__ == "__main__":
    main()
