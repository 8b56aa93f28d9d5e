"""Supervised training for evaluations: one loop for fine-tuning, segmentation and detection.

As in `repre.training`, randomness has no state: every step is seeded by the seed and its number, so a stopped fit that is
called again ends with the weights of one that never stopped.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repre.errors import RunError, UserError
from repre.models.encoder import Encoder
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.training.optim import OptimConfig, build_optimizer, set_schedule
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields
from repre.utils.io import json_hash
from repre.utils.onednn_linear import fast_linear
from repre.utils.progress import Progress
from repre.utils.schedule import step_seed
from repre.utils.signals import Interrupted, StopRequest

CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a head, and an encoder below it, are trained: AdamW, warm-up and cosine, layer-wise learning rates."""

    epochs: int = 50
    """Passes over the labeled training data."""
    batch_size: int = 32
    """Images per step."""
    lr: float = 1e-3
    """Peak learning rate, of the head; the encoder's layers have less, by `layer_decay`."""
    layer_decay: float = 0.75
    """Factor of the learning rate from one layer to the one below it (BEiT, arXiv 2106.08254); 1 trains all alike."""
    weight_decay: float = 0.05
    """Weight decay of matrices and kernels."""
    warmup_fraction: float = 0.1
    """Share of the training over which the learning rate rises."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; None does not clip."""
    drop_path: float = 0.1
    """Stochastic depth of the encoder while it is trained; 0 where the encoder is frozen."""

    def __post_init__(self) -> None:
        check_fields(self, "fit")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"fit.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"fit.layer_decay must lie in (0, 1], not {self.layer_decay}")
        if self.lr <= 0:
            raise UserError(f"fit.lr must be above 0, not {self.lr}")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"fit.drop_path must lie in [0, 1), not {self.drop_path}")

    @property
    def optim(self) -> OptimConfig:
        return OptimConfig(
            lr=self.lr,
            base_batch_size=self.batch_size,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            clip_grad_norm=self.clip_grad_norm,
        )


def fit(
    model: nn.Module,
    *,
    batches: Callable[[int], Iterator[Any]],
    loss: Callable[[Any], Tensor],
    steps: int,
    steps_per_epoch: int,
    config: FitConfig,
    device: torch.device,
    precision: torch.dtype,
    seed: int,
    encoder: Encoder | None = None,
    work: Path | None = None,
    identity: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Trains the parameters of `model` that require gradients; leaves it in evaluation mode.

    Args:
        batches: from a first step to the batches from there on; batch t must be a function of t and the seed alone.
        loss: from a batch to a scalar loss; called in training mode under autocast of `precision`.
        encoder: part of the model whose layers get smaller learning rates; None trains all alike.
        work: folder for a checkpoint, with which an interrupted fit goes on; None keeps none.
        identity: everything that defines this fit; a checkpoint of another one in `work` is not continued.

    Returns:
        loss (mean of the last steps, at most ten), seconds, images_per_s.

    Raises:
        Interrupted: a signal asked to stop; with `work`, the same call goes on.
        RunError: the loss is not finite.
    """
    layers: dict[str, int] = {}
    keep: list[str] = []
    if encoder is not None:
        place = next((f"{name}." if name else "") for name, module in model.named_modules() if module is encoder)
        layers = {f"{place}{name}": layer for name, layer in encoder.layers().items()}
        keep = encoder.no_weight_decay
    optimizer = build_optimizer(config.optim, model, keep=keep, layers=layers, layer_decay=config.layer_decay)
    checkpoint = work / f"fit-{json_hash(identity, length=16)}.pt" if work is not None else None
    step, spent, recent = 0, 0.0, 0.0
    if checkpoint is not None and checkpoint.is_file():
        state = load_checkpoint(checkpoint, device=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, recent = state["step"], state["seconds"], state["recent"]

    def save() -> None:
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, {**content, "step": step, "seconds": spent, "recent": recent})

    model.train()
    bar = Progress(start=step, total=steps, steps_per_epoch=steps_per_epoch, shown=True)
    begun = saved_at = logged_at = time.monotonic()
    before, first, logged_step, waited = spent, step, step, 0.0
    pending: list[Tensor] = []  # read at the end of ten steps, not in each: reading waits for the device
    source = batches(step)
    with StopRequest() as stop:
        while step < steps:
            asked = time.monotonic()
            batch = next(source)
            waited += time.monotonic() - asked
            lr = set_schedule(optimizer, config.optim, progress=step / steps, batch=config.batch_size)
            torch.manual_seed(step_seed(seed, step))
            with autocast(device, precision), fast_linear():
                value = loss(batch)
            value.backward()
            if config.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            pending.append(value.detach())
            step += 1
            now = time.monotonic()
            spent = before + now - begun
            row = None
            if step % 10 == 0 or step == steps:
                recent = float(torch.stack(pending).float().mean())
                pending.clear()
                if recent != recent or abs(recent) == float("inf"):
                    raise RunError(f"the loss is {recent} at step {step} of {steps}; lower --fit.lr")
                rate = (step - logged_step) * config.batch_size / max(now - logged_at, 1e-9)
                row = {"loss": recent, "lr": lr, "images_per_s": rate, "data_wait": waited / max(now - begun, 1e-9)}
                logged_at, logged_step = now, step
            bar.update(step, row)
            if stop.signal is not None:
                if pending:
                    recent = float(torch.stack(pending).float().mean())
                save()
                bar.close()
                kept = "the same command goes on from here" if checkpoint is not None else "nothing was kept"
                raise Interrupted(f"stopped at step {step} of {steps}; {kept}", code=128 + stop.signal)
            if now - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = now
    bar.close()
    save()
    model.eval()
    return {"loss": recent, "seconds": spent, "images_per_s": (step - first) * config.batch_size / max(spent, 1e-9)}
