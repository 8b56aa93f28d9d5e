"""What every contender of the pipeline benchmark shares: its task, its clock, and what it reports.

A contender trains SimCLR (two views, NT-Xent at temperature 0.2, AdamW) with a timm ViT on one folder of JPEG files. It
runs alone in a process of its own, takes its task from the command line, and prints one line of JSON.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """The work that is the same for all."""

    images: str
    """Folder of JPEG files."""
    size: int
    """Side of the views in pixels."""
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
    out: str
    """Folder for a picture of the views that were trained on."""


def task() -> Task:
    parser = argparse.ArgumentParser()
    for name, kind in Task.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind if isinstance(kind, type) else eval(kind), required=True)
    return Task(**vars(parser.parse_args()))


class Clock:
    """Times the steps after the warm-up, and the part of them that was spent waiting for data."""

    def __init__(self, job: Task) -> None:
        self.job, self.step, self.waited = job, 0, 0.0
        self.begun = 0.0

    def wait(self, batches: Any) -> Any:
        asked = time.perf_counter()
        batch = next(batches)
        if self.step >= self.job.warmup:
            self.waited += time.perf_counter() - asked
        return batch

    def tick(self) -> bool:
        """After a step; True when all are done."""
        self.step += 1
        if self.step == self.job.warmup:
            synchronise(self.job.device)
            self.begun = time.perf_counter()
        return self.step == self.job.warmup + self.job.steps

    def report(self, name: str, **more: Any) -> None:
        synchronise(self.job.device)
        seconds = time.perf_counter() - self.begun
        report(
            name,
            self.job,
            images_per_s=self.job.steps * self.job.batch / seconds,
            data_wait=self.waited / seconds,
            **more,
        )


def synchronise(device: str) -> None:
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
    """A picture of the first eight images of a batch in both views; tensors [B, 3, S, S], normalised by ImageNet."""
    import torch
    from torchvision.utils import save_image

    mean, std = (torch.tensor(s).view(3, 1, 1) for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    shown = torch.cat([view[:8].float().cpu() * std + mean for view in views]).clamp(0, 1)
    Path(job.out).mkdir(parents=True, exist_ok=True)
    save_image(shown, Path(job.out) / f"views-{name}.png", nrow=8)


def build(job: Task) -> tuple[Any, Any]:
    """The encoder and projector that rivals train, with timm and torch alone."""
    import timm
    from torch import nn

    encoder = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=job.size,
        patch_size=job.patch,
        embed_dim=job.dim,
        depth=job.depth,
        num_heads=job.heads,
        num_classes=0,
    )
    norm = nn.BatchNorm1d
    projector = nn.Sequential(
        nn.Linear(job.dim, 2048, bias=False), norm(2048), nn.ReLU(), nn.Linear(2048, 256, bias=False), norm(256)
    )
    return encoder.to(job.device), projector.to(job.device)
