"""lightly-train's `pretrain` on the same timm model: its loader, transforms (albumentations) and Lightning trainer.

A callback that times the steps replaces its own callbacks (checkpoints, export, learning rate).
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"
import lightly_train
from contender import (
    BOTTLENECK_DIM,
    DINO_HIDDEN_DIM,
    HIDDEN_DIM,
    OUT_DIM,
    TEMPERATURE,
    Clock,
    Task,
    build_encoder,
    parse_task,
    save_grid,
)
from lightly_train._commands import train_helpers
from pytorch_lightning import Callback, Trainer


class Timer(Callback):
    """Times the steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, *_: object) -> None:
        self.clock.start_wait()

    def on_train_batch_start(self, trainer: object, module: object, batch: dict, number: int) -> None:
        self.clock.end_wait()
        if number == 0 and self.clock.step == 0:
            save_grid(batch["views"], self.clock.task, "lightly-train")

    def on_train_batch_end(self, *_: object) -> None:
        if self.clock.tick():
            self.clock.report(
                "lightly-train",
                does=f"lightly-train {version('lightly-train')}'s pretrain(), albumentations in {self.clock.task.workers} "
                "workers, its callbacks left out",
            )
        self.clock.start_wait()


def method_settings(task: Task) -> dict[str, dict]:
    """Returns the arguments that define the method and its views."""
    views = {"image_size": (task.size, task.size)}
    if task.method == "simclr":
        head = {"hidden_dim": HIDDEN_DIM, "output_dim": OUT_DIM, "temperature": TEMPERATURE}
        return {"method_args": head, "transform_args": views | {"random_resize": {"min_scale": 0.08, "max_scale": 1.0}}}
    local = {"view_size": (task.local_size, task.local_size), "num_views": task.n_local}
    local |= {"random_resize": {"min_scale": 0.05, "max_scale": 0.25}}
    return {
        "method_args": {"hidden_dim": DINO_HIDDEN_DIM, "bottleneck_dim": BOTTLENECK_DIM, "output_dim": task.prototypes},
        "transform_args": views | {"random_resize": {"min_scale": 0.25, "max_scale": 1.0}, "local_view": local},
    }


def main() -> None:
    task = parse_task()
    out = Path(task.out) / "lightly-train"
    shutil.rmtree(out, ignore_errors=True)
    build_trainer = train_helpers.get_trainer

    def timed_trainer(*, callbacks: list[Callback], **settings: Any) -> Trainer:
        return build_trainer(callbacks=[Timer(Clock(task))], **settings)

    train_helpers.get_trainer = timed_trainer  # pretrain only accepts callbacks from its own list
    lightly_train.pretrain(
        out=out,
        data=task.images,
        model=build_encoder(task),
        method=task.method,
        epochs=1000,
        batch_size=task.batch,
        num_workers=task.workers,
        devices=1,
        accelerator="gpu" if task.device.startswith("cuda") else "cpu",
        precision="bf16-mixed" if task.precision == "bf16" else "32-true",
        optim="adamw",
        optim_args={"lr": 1e-4},
        loader_args={"persistent_workers": task.workers > 0, "pin_memory": task.device.startswith("cuda")},
        trainer_args={
            "max_steps": task.warmup + task.steps,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        },
        **method_settings(task),
    )


if __name__ == "__main__":
    main()
