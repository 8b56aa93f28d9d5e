"""Trials of a training step: the whole batch, ever smaller micro-batches, with and without compilation."""

import gc
import os
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from repre.config import ComputeConfig, RunConfig
from repre.data.views.render import make_views
from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.models.repre import RePre
from repre.training.run_state import RunState
from repre.training.step import split_views, train_step, validate_micro_batch
from repre.types import Batch, Features, Views
from repre.utils.device import pick_precision

MAX_MEMORY_SHARE = 0.9
"""Share of the memory that a run may take."""
MIN_MICRO_BATCH = 8
"""Images of the smallest micro-batch that is tried."""
GIB = 2**30


@dataclass(frozen=True)
class Trial:
    """One way to compute the step of the whole batch, as measured.

    Attributes:
        images_per_s: of the step alone; None if it did not fit.
        memory_gib: peak memory of the device, or of the process on the CPU; None if it did not fit.
        heads_gib: what heads and contrastive loss keep of the whole batch for the backward pass, at any micro-batch.
    """

    micro_batch: int
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool
    grad_checkpointing: bool
    images_per_s: float | None
    memory_gib: float | None
    heads_gib: float | None = None


def run_trials(
    config: RunConfig, batch: Batch, device: torch.device, *, seconds: float
) -> tuple[list[Trial], list[Trial]]:
    """All trials that were run, and those that fit."""
    trials: list[Trial] = []
    fitting: list[Trial] = []
    end = time.monotonic() + seconds
    for candidate in _candidates(config, device):
        if fitting and time.monotonic() > end:
            break
        trial = _run_trial(candidate, batch, device, config)
        trials.append(trial)
        if trial.images_per_s is not None:
            fitting.append(trial)
            if trial.micro_batch < config.batch_size and len(fitting) > 1:
                break  # once a piece fits, smaller ones only cost time
    return trials, fitting


def _candidates(config: RunConfig, device: torch.device) -> list[Trial]:
    """What to try, the most promising first: the whole batch, then ever smaller pieces, then the smallest with gradient
    checkpointing; on CUDA also the compiled encoder."""
    precision = config.compute.precision
    if precision == "auto":
        precision = "bf16" if pick_precision("auto", device) is torch.bfloat16 else "fp32"
    sizes = [config.batch_size]
    if _may_be_cut(config):
        while sizes[-1] // 2 >= MIN_MICRO_BATCH:
            sizes.append(sizes[-1] // 2)
    checkpointing = config.encoder.grad_checkpointing
    trials = [Trial(size, precision, config.compute.compile == "on", checkpointing, None, None) for size in sizes]
    if not checkpointing:
        trials.append(replace(trials[-1], grad_checkpointing=True))
    if device.type == "cuda" and config.compute.compile == "auto":
        trials.insert(0, replace(trials[0], compile=True))
    return trials


def _may_be_cut(config: RunConfig) -> bool:
    """Whether the encoder allows a batch in pieces."""
    try:
        encoder = Encoder(replace(config.encoder_at_size, weights=None))
        validate_micro_batch(encoder, config.reconstruction, micro_batch=MIN_MICRO_BATCH)
    except UserError:
        return False
    return True


def _run_trial(trial: Trial, batch: Batch, device: torch.device, config: RunConfig) -> Trial:
    """Times whole steps; returns the trial with its measurements, or without them if the memory did not suffice."""
    micro_batch = trial.micro_batch if trial.micro_batch < config.batch_size else 0
    config = replace(
        config,
        encoder=replace(config.encoder, grad_checkpointing=trial.grad_checkpointing, weights=None),
        reconstruction=replace(config.reconstruction, end_fraction=1.0),  # the branch takes part
        compute=ComputeConfig(
            precision=trial.precision, micro_batch=micro_batch, compile="on" if trial.compile else "off"
        ),
        runtime=replace(config.runtime, shard=False),
    )
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        state = RunState(config, device)
        views = make_views(batch, config.rendered_views, seed=config.seed, device=device)

        def step() -> None:
            on_cpu = device.type == "cpu"  # there the loader's processes make the views
            train_step(
                state.model,
                state.optimizer,
                views if on_cpu else make_views(batch, config.rendered_views, seed=config.seed, device=device),
                optim=config.optim,
                batch_size=config.batch_size,
                progress=0.5,
                seed=0,
                micro_batch=micro_batch,
                precision=state.precision,
                scaler=state.scaler,
            )

        step()  # allocates, compiles, chooses kernels
        _synchronize(device)
        begin, steps = time.monotonic(), 0
        while steps < 2 or (time.monotonic() - begin < 2 and steps < 20):
            step()
            _synchronize(device)
            steps += 1
        rate = steps * config.batch_size / (time.monotonic() - begin)
        memory = _peak_memory(device)
        heads = _kept_by_heads(state.model, views)
    except (torch.OutOfMemoryError, MemoryError):
        return trial
    finally:
        gc.collect()
    if memory > MAX_MEMORY_SHARE * _total_memory(device):
        return replace(trial, memory_gib=memory / GIB)
    return replace(trial, images_per_s=rate, memory_gib=memory / GIB, heads_gib=heads / GIB)


def _kept_by_heads(model: RePre, views: Views) -> int:
    """Bytes that heads and contrastive loss of these views keep for the backward pass, without weights."""
    count = len(views.images[0])
    piece = next(split_views(views, 2))
    with torch.no_grad():
        features = model.student_features(piece, maps=False), model.teacher_features(piece)
    student, teacher = (
        [Features(view.embedding.repeat(-(-count // len(view.embedding)), 1)[:count]) for view in side]
        for side in features
    )
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def count_storage(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for view in student:
        view.embedding.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count_storage, lambda tensor: tensor):
        output = model.contrastive_loss(student, teacher, 0.5)
    del output  # the graph had to live until here
    return sum(kept.values())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> float:
    """Bytes: the device's peak since it was reset; on the CPU the peak of the process so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _total_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
