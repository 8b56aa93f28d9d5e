"""The smallest encoder, options that keep a test on one CPU process and in its own folder, and stops at a step."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.evaluation.options import RuntimeOptions
from repre.models.resolve import ResolvedEncoder, resolve_encoder

VIT = "random:vit_tiny_patch16_224[image_size=16,patch_size=8,embed_dim=16,depth=2,num_heads=2]"


def tiny_resolved(spec: str = VIT) -> ResolvedEncoder:
    return resolve_encoder(spec)


def on_cpu(cache: Path, *, batch: int = 16, workers: int = 0) -> RuntimeOptions:
    return RuntimeOptions(device="cpu", workers=workers, batch=batch, cache=cache)


@dataclass
class StepCounter:
    """Counts optimizer steps; the step number `stop_at` asks the process to stop."""

    count: int = 0
    stop_at: int | None = None


def count_steps(monkeypatch: pytest.MonkeyPatch) -> StepCounter:
    counter, step = StepCounter(), torch.optim.AdamW.step

    def counting(*args: Any, **kwargs: Any) -> Any:
        counter.count += 1
        if counter.count == counter.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    return counter


def trained_weights(work_dir: Path) -> dict[str, torch.Tensor]:
    """Weights of the one training that kept its checkpoint in a folder."""
    (checkpoint,) = work_dir.glob("fit-*.pt")
    weights: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["model"]
    return weights
