"""Shared code of all contenders of the pipeline benchmark: the task, a clock, the report.

A contender trains SimCLR (two views, NT-Xent at temperature 0.2, AdamW) or DINO (two global views and local views) with a
timm ViT on one folder of JPEG files. It runs alone in its own process, reads its task from the command line and prints one
line of JSON. This file imports nothing from repre, because rivals run in environments without it.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE = 0.2
HIDDEN_DIM, OUT_DIM = 2048, 256
"""Widths of SimCLR's projector."""
DINO_HIDDEN_DIM, BOTTLENECK_DIM = 2048, 256
"""Widths of DINO's head before its prototypes."""


@dataclass(frozen=True)
class Task:
    """The work that is the same for all contenders."""

    images: str
    """Folder of JPEG files."""
    method: str
    """simclr or dino."""
    size: int
    """Side of the global views in pixels."""
    local_size: int
    """Side of DINO's local views in pixels."""
    n_local: int
    """Number of DINO's local views."""
    prototypes: int
    """Number of DINO's prototypes."""
    patch: int
    """Side of the ViT's patches in pixels."""
    dim: int
    """Width of the ViT."""
    depth: int
    """Number of blocks of the ViT."""
    heads: int
    """Number of attention heads of the ViT."""
    batch: int
    """Batch size."""
    steps: int
    """Number of timed steps."""
    warmup: int
    """Number of steps before the timed ones."""
    workers: int
    """Number of decoding processes."""
    device: str
    """cpu or cuda."""
    precision: str
    """fp32 or bf16."""
    out: str
    """Folder for an image of the views."""

    @property
    def blur_kernel(self) -> int:
        """Odd side of the blur kernel: a tenth of the view, as in SimCLR."""
        return max(3, 2 * round((self.size * 23 / 224 - 1) / 2) + 1)


def parse_task() -> Task:
    """Reads the task from the command line."""
    parser = argparse.ArgumentParser()
    for name, kind in Task.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return Task(**vars(parser.parse_args()))


class Clock:
    """Times the steps after the warm-up, and how much of that time was spent waiting for data."""

    def __init__(self, task: Task) -> None:
        self.task, self.step, self.waited = task, 0, 0.0
        self.started = self.wait_started = 0.0

    def next(self, batches: Any) -> Any:
        """Returns the next batch of an iterator and times the wait for it."""
        self.start_wait()
        batch = next(batches)
        self.end_wait()
        return batch

    def start_wait(self) -> None:
        """Marks the begin of a wait for data."""
        self.wait_started = time.perf_counter()

    def end_wait(self) -> None:
        """Marks the end of a wait for data."""
        if self.step >= self.task.warmup:
            self.waited += time.perf_counter() - self.wait_started

    def tick(self) -> bool:
        """Counts a finished step; returns True after the last one."""
        self.step += 1
        if self.step == self.task.warmup:
            synchronize(self.task.device)
            self.started = time.perf_counter()
        return self.step == self.task.warmup + self.task.steps

    def report(self, name: str, *, does: str) -> None:
        """Prints the result; see `report`."""
        synchronize(self.task.device)
        seconds = time.perf_counter() - self.started
        images_per_s = self.task.steps * self.task.batch / seconds
        report(name, self.task, images_per_s=images_per_s, data_wait=self.waited / seconds, does=does)


def synchronize(device: str) -> None:
    """Waits for a CUDA device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def report(name: str, task: Task, *, images_per_s: float, data_wait: float, does: str) -> None:
    """Prints the result as one line of JSON, with the peak memory.

    Args:
        data_wait: share of the time that was spent waiting for data.
        does: how the contender decodes, augments and trains.
    """
    memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if task.device.startswith("cuda"):
        import torch

        memory_gib = torch.cuda.max_memory_allocated() / 2**30
    result = {
        "name": name,
        "images_per_s": images_per_s,
        "data_wait": data_wait,
        "does": does,
        "memory_gib": memory_gib,
    }
    print(json.dumps(result | {"task": asdict(task)}), file=sys.stdout, flush=True)


def save_grid(views: list[Any], task: Task, name: str) -> None:
    """Saves an image of the first eight images of a batch in every view.

    Args:
        views: tensors [B, 3, S, S], normalized with ImageNet's statistics.
    """
    import torch
    import torch.nn.functional as F
    from torchvision.utils import save_image

    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (MEAN, STD))
    rows = [F.pad(view[:8].float().cpu() * std + mean, [0, views[0].shape[-1] - view.shape[-1]] * 2) for view in views]
    Path(task.out).mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(rows).clamp(0, 1), Path(task.out) / f"views-{name}.png", nrow=8)


def build_encoder(task: Task) -> Any:
    """Builds the ViT with timm alone."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=task.size,
        patch_size=task.patch,
        embed_dim=task.dim,
        depth=task.depth,
        num_heads=task.heads,
        num_classes=0,
        dynamic_img_size=task.method == "dino",
    )


def build_projector(task: Task) -> Any:
    """Builds SimCLR's projector."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(task.dim, HIDDEN_DIM, bias=False),
        nn.BatchNorm1d(HIDDEN_DIM),
        nn.ReLU(),
        nn.Linear(HIDDEN_DIM, OUT_DIM, bias=False),
    )


def build_loader(dataset: Any, task: Task) -> Any:
    """Builds a DataLoader with the settings that PyTorch's tuning guide recommends."""
    import torch

    return torch.utils.data.DataLoader(
        dataset,
        batch_size=task.batch,
        shuffle=True,
        drop_last=True,
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        pin_memory=task.device.startswith("cuda"),
    )


def endless(batches: Any) -> Any:
    """Yields the batches of a loader, epoch after epoch."""
    while True:
        yield from batches
