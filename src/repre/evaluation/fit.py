"""Supervised training for evaluations: one loop for fine-tuning, segmentation and detection.

As in `repre.training`, randomness has no state: every step is seeded by the seed and the number of the step. So an
interrupted fit that resumes ends with the weights of one that was never interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from repre.errors import RunError, UserError
from repre.models.encoder import Encoder
from repre.training.checkpoint import load_checkpoint, save_checkpoint
from repre.training.optim import OptimConfig, build_optimizer, set_schedule
from repre.utils.amp import autocast
from repre.utils.config_checks import check_fields
from repre.utils.dist import sum_over_ranks
from repre.utils.io import json_hash
from repre.utils.onednn_linear import fast_linear
from repre.utils.pieces import attempt, batch_dependence, no_repetition
from repre.utils.progress import Progress
from repre.utils.rank_stream import from_rank_0
from repre.utils.schedule import step_seed
from repre.utils.signals import Interrupted, StopNow, StopRequest
from repre.utils.together import check_others, my_share, waiting_ranks

CHECKPOINT_SECONDS = 300.0
"""Time between two checkpoints."""
EPOCHS, LR = 50, 1e-3
"""Of a training whose config leaves them open."""
HEAD_STEPS, HEAD_LR = 1000, 1e-2
"""The same of a linear head on a frozen encoder, where a step costs little: with 36 street frames, the 100 steps at 1e-3
that the other defaults give end far from converged (docs/evaluate/segment.md)."""
COMPARES = "its loss or its head compares the images of a batch"
LOG_STEPS = 10
"""Steps between two logged lines. Only then is the loss read, because reading it waits for the device."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Training of a head, and of the encoder unless it is frozen: AdamW, warmup and cosine, layer-wise learning rates."""

    epochs: int | None = None
    """Passes over the labeled training data; None: 50, and for a linear head on a frozen encoder at least 1000 steps."""
    batch_size: int = 32
    """Images per step."""
    lr: float | None = None
    """Peak learning rate of the head; the encoder's layers have lower ones, see `layer_decay`. None: 1e-3, and 1e-2 for a
    linear head on a frozen encoder."""
    layer_decay: float = 0.75
    """Factor of the learning rate from one layer to the layer below (BEiT, arXiv 2106.08254); 1: the same for all."""
    weight_decay: float = 0.05
    """Weight decay of matrices and kernels."""
    warmup_fraction: float = 0.1
    """Fraction of the training over which the learning rate rises."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; None does not clip."""
    drop_path: float = 0.1
    """Stochastic depth of the encoder while it is trained; a frozen encoder has none."""

    def __post_init__(self) -> None:
        check_fields(self, "fit")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"fit.{name} must be at least 1, not {value}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"fit.layer_decay must lie in (0, 1], not {self.layer_decay}")
        if self.lr is not None and self.lr <= 0:
            raise UserError(f"fit.lr must be above 0, not {self.lr}")
        if self.clip_grad_norm == 0:
            raise UserError("fit.clip_grad_norm must be above 0, or None to clip nothing: 0 removes every gradient")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"fit.drop_path must lie in [0, 1), not {self.drop_path}")

    @property
    def passes(self) -> int:
        """`epochs`, or their default."""
        return EPOCHS if self.epochs is None else self.epochs

    def for_linear_head(self, steps_per_epoch: int) -> "FitConfig":
        """The training of a linear head on a frozen encoder; what is None gets values that converge on few images."""
        epochs = max(EPOCHS, math.ceil(HEAD_STEPS / steps_per_epoch)) if self.epochs is None else self.epochs
        return replace(self, epochs=epochs, lr=HEAD_LR if self.lr is None else self.lr)

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's config; the learning rate is not scaled by the batch."""
        return OptimConfig(
            lr=LR if self.lr is None else self.lr,
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
    piece_losses: Callable[[Any, int], Iterator[Tensor]] | None = None,
    steps: int,
    steps_per_epoch: int,
    config: FitConfig,
    device: torch.device,
    precision: torch.dtype,
    seed: int,
    encoder: Encoder | None = None,
    work_dir: Path | None = None,
    identity: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Trains the parameters of `model` that require gradients, and sets evaluation mode.

    Args:
        batches: returns the batches from a step on; batch t must depend on t and the seed alone.
        loss: maps a batch to a scalar loss; called in training mode under autocast to `precision`.
        piece_losses: maps a batch and a number of images to the losses of pieces of so many, whose sum is `loss`. With it a
            step that runs out of memory is repeated in smaller pieces, with the same update. In a call of `together` the
            sum over all ranks is the loss of the batch: every rank gives those of its share (`why_alone`).
        steps, steps_per_epoch: length of the training.
        config: optimizer and schedule.
        device: where `model` is.
        seed: of everything random inside a step.
        encoder: part of the model whose layers get lower learning rates; None: the same for all parameters.
        work_dir: folder for a checkpoint, from which an interrupted fit resumes; None saves no checkpoint.
        identity: everything that defines this fit; the checkpoint of another fit in `work_dir` is ignored.

    Returns:
        loss (mean of the last steps, at most ten), seconds and images_per_s, interrupted parts included.

    Raises:
        Interrupted: a signal asked to stop; with `work_dir`, the same call resumes.
        RunError: the loss is not finite, memory runs out where the batch cannot be cut, or the checkpoint cannot be written.
    """
    rank, ranks = my_share()
    if (waiting := waiting_ranks()) and (reason := why_alone(model, config.batch_size, piece_losses is not None)):
        print(f"rank 0 of {waiting + 1} trains alone: {reason}", flush=True)
    layers, no_weight_decay = _encoder_layers(model, encoder)
    optimizer = build_optimizer(
        config.optim, model, no_weight_decay=no_weight_decay, layers=layers, layer_decay=config.layer_decay
    )
    checkpoint = work_dir / f"fit-{json_hash(identity, length=16)}.pt" if work_dir is not None else None
    step, seconds, losses = 0, 0.0, list[Tensor]()  # the losses that the next logged line averages
    state = None
    if checkpoint is not None and not rank and checkpoint.is_file():
        state = load_checkpoint(checkpoint, device=device)
    if (state := from_rank_0(state)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, losses = state["step"], state["seconds"], [loss.to(device) for loss in state["losses"]]

    def save() -> None:
        if checkpoint is not None and not rank:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, {**content, "step": step, "seconds": seconds, "losses": losses})

    def backward(batch: Any) -> Tensor:
        """Leaves the gradient of a batch in the parameters; returns its loss."""
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(step_seed(seed, step))
        if piece_losses is None or at_once >= local:
            with autocast(device, precision), fast_linear():
                value = loss(batch)
            value.backward()
            return value.detach()
        total = torch.zeros((), device=device)
        pieces = piece_losses(batch, at_once)
        while True:
            with autocast(device, precision), fast_linear():
                piece = next(pieces, None)
            if piece is None:
                return total
            piece.backward()
            total += piece.detach()

    def leave() -> NoReturn:
        """Saves and ends the fit because a signal asked for it."""
        save()
        progress.close()
        advice = "run the same command again to resume" if checkpoint is not None else "nothing was saved"
        raise Interrupted(f"stopped at step {step} of {steps}; {advice}", code=128 + (stop.signal or SIGTERM))

    model.train()
    at_once = local = config.batch_size // ranks
    progress = Progress(start=step, total=steps, steps_per_epoch=steps_per_epoch, enabled=not rank)
    started = saved_at = logged_at = time.monotonic()
    earlier_seconds, logged_step, waited = seconds, step, 0.0
    stream = batches(step)
    with StopRequest() as stop:
        while step < steps:
            requested_at = time.monotonic()
            try:
                with stop.interruptible():  # what takes the longest may be the wait for data
                    batch = next(stream)
            except StopNow:
                leave()
            waited += time.monotonic() - requested_at
            lr = set_schedule(optimizer, config.optim, progress=step / steps, batch_size=config.batch_size)
            while (value := attempt(partial(backward, batch))) is None:
                at_once = _half(at_once, model, may_be_cut=piece_losses is not None)
                progress.write(f"memory ran out; the step is repeated with {at_once} images at once, the same update")
            with no_repetition():
                if ranks > 1:
                    try:
                        value = _sum_over_ranks(model, value)
                    except Exception:  # another rank is gone, and nothing of this step was applied
                        save()
                        raise
                if config.clip_grad_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if step % LOG_STEPS == 0:
                losses.clear()
            losses.append(value)
            step += 1
            now = time.monotonic()
            seconds = earlier_seconds + now - started
            row = None
            if step % LOG_STEPS == 0 or step == steps:
                recent = _mean(losses)
                if not math.isfinite(recent):
                    raise RunError(f"the loss is {recent} at step {step} of {steps}; lower --fit.lr")
                rate = (step - logged_step) * config.batch_size / max(now - logged_at, 1e-9)
                row = {"loss": recent, "lr": lr, "images_per_s": rate, "data_wait": waited / max(now - started, 1e-9)}
                logged_at, logged_step = now, step
            progress.update(step, row)
            if stop.signal is not None:
                leave()
            if now - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = now
    progress.close()
    save()
    model.eval()
    return {
        "loss": _mean(losses),
        "seconds": seconds,
        "images_per_s": step * config.batch_size / max(seconds, 1e-9),
    }


def why_alone(model: nn.Module, batch_size: int, may_be_cut: bool = True) -> str | None:
    """Why several ranks cannot train together with the updates of one, in words; None if they can.

    Args:
        may_be_cut: whether the loss of a batch is the sum of those of its images.
    """
    ranks = max(waiting_ranks() + 1, my_share()[1])
    if not may_be_cut:
        return COMPARES
    if batch_size % ranks:
        return f"--fit.batch-size {batch_size} is not a multiple of {ranks}"
    return batch_dependence(model)


def _sum_over_ranks(model: nn.Module, loss: Tensor) -> Tensor:
    """Sums the gradients of all ranks, and their losses; returns the loss. One buffer carries them all.

    All ranks have gradients for the same parameters; those without one stay without, so that no decay reaches them either.
    """
    check_others()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    total = sum_over_ranks(torch.cat([*(gradient.flatten() for gradient in gradients), loss.detach().flatten()]))
    parts = total.split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))
    return parts[-1].view(())


def _half(at_once: int, model: nn.Module, *, may_be_cut: bool) -> int:
    """Half as many images at once; raises RunError where the batch cannot be cut, or no further."""
    reason = batch_dependence(model) if may_be_cut else COMPARES
    if reason is not None:
        raise RunError(
            f"memory ran out at {at_once} images per step, which cannot be cut into pieces: {reason}. Use a smaller "
            "--fit.batch-size, which is another training, or a smaller --size"
        )
    if at_once == 1:
        raise RunError("memory ran out at one image at once; use a smaller --size or a smaller encoder")
    return -(-at_once // 2)


def _encoder_layers(model: nn.Module, encoder: Encoder | None) -> tuple[dict[str, int], list[str]]:
    """The depth of the encoder's parameters by their names in `model`, and those without weight decay."""
    if encoder is None:
        return {}, []
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is encoder)
    return {f"{prefix}{name}": depth for name, depth in encoder.layer_ids().items()}, encoder.no_weight_decay


def _mean(losses: list[Tensor]) -> float:
    return float(torch.stack(losses).float().mean()) if losses else 0.0
