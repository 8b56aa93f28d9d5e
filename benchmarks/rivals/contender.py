"""What every contender of the pipeline benchmark shares: its task, its clock, and what it reports.

A contender trains SimCLR (two views, NT-Xent at temperature 0.2, AdamW) or DINO (two global views and local ones) with a
timm ViT on one folder of JPEG files. It runs alone in a process of its own, takes its task from the command line, and
prints one line of JSON. This file imports nothing of repre: rivals import it in environments of their own.
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
HIDDEN, OUT = 2048, 256
"""Widths of SimCLR's projector."""
DINO_HIDDEN, BOTTLENECK = 2048, 256
"""Widths of DINO's head before its prototypes."""


@dataclass(frozen=True)
class Task:
    """The work that is the same for all."""

    images: str
    """Folder of JPEG files."""
    method: str
    """simclr or dino."""
    size: int
    """Side of the global views in pixels."""
    local_size: int
    """Side of DINO's local views in pixels."""
    n_local: int
    """How many local views DINO takes."""
    prototypes: int
    """Of DINO's head."""
    patch: int
    dim: int
    depth: int
    heads: int
    batch: int
    steps: int
    """Steps that are timed, after `warmup` others."""
    warmup: int
    workers: int
    device: str
    precision: str
    """fp32 or bf16."""
    out: str
    """Folder for a picture of the views that were trained on."""

    @property
    def blur(self) -> int:
        """Odd length of the blur's kernel: a tenth of the view, as SimCLR says."""
        return max(3, 2 * round((self.size * 23 / 224 - 1) / 2) + 1)


def task() -> Task:
    parser = argparse.ArgumentParser()
    for name, kind in Task.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return Task(**vars(parser.parse_args()))


class Clock:
    """Times the steps after the warm-up, and the part of them that was spent waiting for data."""

    def __init__(self, job: Task) -> None:
        self.job, self.step, self.waited = job, 0, 0.0
        self.begun = self.asked = 0.0

    def wait(self, batches: Any) -> Any:
        self.ask()
        batch = next(batches)
        self.got()
        return batch

    def ask(self) -> None:
        """The next batch is asked for."""
        self.asked = time.perf_counter()

    def got(self) -> None:
        """It is there."""
        if self.step >= self.job.warmup:
            self.waited += time.perf_counter() - self.asked

    def tick(self) -> bool:
        """After a step; True when all are done."""
        self.step += 1
        if self.step == self.job.warmup:
            synchronize(self.job.device)
            self.begun = time.perf_counter()
        return self.step == self.job.warmup + self.job.steps

    def report(self, name: str, **more: Any) -> None:
        synchronize(self.job.device)
        seconds = time.perf_counter() - self.begun
        report(
            name,
            self.job,
            images_per_s=self.job.steps * self.job.batch / seconds,
            data_wait=self.waited / seconds,
            **more,
        )


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def report(name: str, job: Task, **figures: Any) -> None:
    memory: dict[str, float] = {"memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if job.device.startswith("cuda"):
        import torch

        memory["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"name": name, **figures, **memory, "task": asdict(job)}), file=sys.stdout, flush=True)


def save_grid(views: list[Any], job: Task, name: str) -> None:
    """A picture of the first eight images of a batch in every view; tensors [B, 3, S, S], normalized by ImageNet."""
    import torch
    import torch.nn.functional as F
    from torchvision.utils import save_image

    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (MEAN, STD))
    shown = [F.pad(view[:8].float().cpu() * std + mean, [0, views[0].shape[-1] - view.shape[-1]] * 2) for view in views]
    Path(job.out).mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(shown).clamp(0, 1), Path(job.out) / f"views-{name}.png", nrow=8)


def build_encoder(job: Task) -> Any:
    """The encoder that rivals train, with timm alone."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=job.size,
        patch_size=job.patch,
        embed_dim=job.dim,
        depth=job.depth,
        num_heads=job.heads,
        num_classes=0,
        dynamic_img_size=job.method == "dino",
    )


def build_projector(job: Task) -> Any:
    """SimCLR's projector."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(job.dim, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT, bias=False)
    )


def loader(dataset: Any, job: Task, **more: Any) -> Any:
    """The data loader with the settings that PyTorch's guide recommends."""
    import torch

    return torch.utils.data.DataLoader(
        dataset,
        batch_size=job.batch,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=job.device.startswith("cuda"),
        **more,
    )


def endless(batches: Any) -> Any:
    while True:
        yield from batches
