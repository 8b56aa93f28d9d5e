"""stable-pretraining's module, forward and loss with Lightning's trainer, with either of its two ways to make views.

default    torchvision on PIL images in the loader's workers, image by image
--batched  its documented faster way: workers decode and resize to 256 x 256 (or the view's size, if larger), and kornia
           makes the views of the whole batch on the training device. Its crops have fewer pixels than those of the others
"""

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import lightning as pl
import stable_pretraining as spt
import torch
from contender import (
    MEAN,
    STD,
    TEMPERATURE,
    Clock,
    Task,
    build_encoder,
    build_loader,
    build_projector,
    parse_task,
    save_grid,
)
from PIL import Image
from stable_pretraining.data import gpu_transforms as gt
from stable_pretraining.data import transforms
from stable_pretraining.forward import simclr


class Folder(torch.utils.data.Dataset):
    """The images of a folder, with a label of 0."""

    def __init__(self, root: str) -> None:
        self.paths = sorted(Path(root).rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.paths[index]), 0  # its forward requires labels


class Timer(pl.Callback):
    """Times the steps."""

    def __init__(self, clock: Clock, name: str, does: str) -> None:
        self.clock, self.name, self.does = clock, name, does

    def on_train_start(self, *_: object) -> None:
        self.clock.start_wait()

    def on_train_batch_start(self, trainer: object, module: object, batch: dict, number: int) -> None:
        self.clock.end_wait()
        if number == 0 and self.clock.step == 0:
            views = [view["image"] for view in batch["views"]]
            save_grid(views, self.clock.task, self.name.replace(", ", "-"))

    def on_train_batch_end(self, *_: object) -> None:
        if self.clock.tick():
            self.clock.report(self.name, does=self.does)
        self.clock.start_wait()


def worker_transform(task: Task) -> object:
    """Returns the transform of both views for the workers."""
    view = transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((task.size, task.size), scale=(0.08, 1.0)),
        transforms.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.PILGaussianBlur(p=0.5),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ToImage(mean=MEAN, std=STD),
    )
    return transforms.MultiViewTransform([view, view])


def batched_transforms(task: Task) -> tuple[object, object]:
    """Returns the transform for the workers and the one for the training device."""
    side = max(256, task.size)
    chain = gt.GPUCompose(
        [
            gt.GPURandomResizedCrop(size=task.size, scale=(0.08, 1.0)),
            gt.GPURandomHorizontalFlip(p=0.5),
            gt.GPUColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            gt.GPURandomGrayscale(p=0.2),
            gt.GPUGaussianBlur(kernel_size=task.blur_kernel, p=0.5),
            gt.GPUNormalize(mean=MEAN, std=STD),
        ]
    )
    prepare = transforms.Compose(transforms.Resize((side, side)), transforms.ToImage(rgb=True, scale=True))
    return prepare, gt.StackedMultiView(chain, n_views=2)


def main() -> None:
    on_device = "--batched" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--batched"]
    task = parse_task()
    assert task.method == "simclr", "stable-pretraining is benchmarked with SimCLR only"
    spt.make_it_fast(verbose=False)
    prepare, views = batched_transforms(task) if on_device else (worker_transform(task), None)
    dataset = spt.data.FromTorchDataset(
        Folder(task.images), names=["image", "label"], transform=prepare, gpu_transform=views
    )
    module = spt.Module(
        backbone=build_encoder(task),
        projector=build_projector(task),
        forward=simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=TEMPERATURE),
        optim={"optimizer": partial(torch.optim.AdamW, lr=1e-4, fused=True), "scheduler": "ConstantLR"},
    )
    views_by = "decode and resize, kornia on the device" if on_device else "torchvision on PIL images"
    name = "stable-pretraining, batched" if on_device else "stable-pretraining"
    does = f"stable-pretraining {version('stable-pretraining')}: {views_by}, {task.workers} workers; fused AdamW"
    trainer = pl.Trainer(
        max_steps=task.warmup + task.steps,
        accelerator="gpu" if task.device.startswith("cuda") else "cpu",
        devices=1,
        precision="bf16-mixed" if task.precision == "bf16" else "32-true",
        callbacks=[Timer(Clock(task), name, does)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, build_loader(dataset, task))


if __name__ == "__main__":
    main()
