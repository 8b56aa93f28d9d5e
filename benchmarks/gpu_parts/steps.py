"""The training step alone: time, memory, arithmetic rate, share of its own ceiling, and what the branch adds.

The variants of a round alternate, so that the branch's cost is a ratio between times of the same round. The ceiling
(ceiling.py) replays the matrix products, attention and convolutions of the eager step.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from ceiling import Recorder, replay
from gpu_parts.context import Context, Scale, run_config
from step import build_step, median_seconds

from repre.utils.device import peak_flops

BRANCHES = {"simclr": (False,), "moco-v3": (False, True), "dino": (False,), "moby": (False, True)}
"""Whether the reconstruction branch takes part, by method."""
NAMES = {"simclr": "SimCLR, ViT-S/16", "moco-v3": "MoCo v3, ViT-S/16", "dino": "DINO, ViT-S/16", "moby": "MoBY, Swin-T"}
WARMUP = 3
PROFILED_STEPS = 3
TOP = 25
"""Kernels in the profile."""


@dataclass(frozen=True)
class Timed:
    """A step that is ready to be timed."""

    name: str
    images: int
    step: Callable[[], object]
    first_seconds: float
    """Duration of the first steps, which compile."""
    memory_gib: float
    """Peak memory of the device, without what other variants hold."""


@dataclass(frozen=True)
class Ceiling:
    """The eager step's own arithmetic."""

    seconds: float
    flops: int


def measure_steps(context: Context, method: str) -> None:
    """Measures all variants of a method's step."""
    scale, device = context.scale, torch.device(context.scale.device)
    ceilings: dict[bool, Ceiling | None] = {}
    for mode in scale.modes:
        timed = {branch: prepare(scale, method, branch, mode) for branch in BRANCHES[method]}
        for branch, variant in timed.items():
            if mode == "off":
                ceilings[branch] = measure_ceiling(variant, scale, device)
        seconds: dict[bool, list[float]] = {branch: [] for branch in timed}
        for _ in range(scale.rounds):
            for branch, variant in timed.items():
                seconds[branch].append(median_seconds(variant.step, scale.steps, device))
        for branch, variant in timed.items():
            emit(context, variant, mode, seconds[branch], ceilings.get(branch))
        if len(timed) == 2:
            ratios = [with_branch / without for without, with_branch in zip(seconds[False], seconds[True])]
            context.emit("branch", of=NAMES[method], compiled=mode, cost_percent=[100 * (r - 1) for r in ratios])
        if method == "moco-v3" and mode == scale.modes[-1]:
            write_profile(context, timed[True], device)


def emit(context: Context, variant: Timed, mode: str, seconds: list[float], ceiling: Ceiling | None) -> None:
    """Adds the row of a variant."""
    row: dict[str, object] = {"ms": [1e3 * s for s in seconds]}
    median = statistics.median(seconds)
    row |= {"images_per_s": variant.images / median, "peak_gib": variant.memory_gib}
    if ceiling is not None:
        rate = ceiling.flops / median
        row["tflop_per_s"] = rate / 1e12
        peak = peak_flops(torch.device(context.scale.device), torch.bfloat16)
        if peak is not None:
            row["mfu_percent"] = 100 * rate / peak
        row |= {"ceiling_ms": 1e3 * ceiling.seconds, "share_of_ceiling_percent": 100 * ceiling.seconds / median}
    context.emit(
        "step", of=variant.name, compiled=mode, batch=variant.images, **row, first_steps_s=variant.first_seconds
    )


def prepare(scale: Scale, method: str, branch: bool, mode: str) -> Timed:
    """Builds a step, and takes the first ones."""
    config, device = run_config(scale, method, branch=branch, compiled=mode), torch.device(scale.device)
    base = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    step = build_step(config, device)
    started = time.perf_counter()
    for _ in range(WARMUP):
        step()
    memory = 0.0
    if device.type == "cuda":
        torch.cuda.synchronize()
        memory = (torch.cuda.max_memory_allocated() - base) / 2**30
    first_seconds = time.perf_counter() - started
    print(f"{method}, branch {branch}, compile {mode}: first steps {first_seconds:.1f} s", flush=True)
    name = NAMES[method] + (" + branch" if branch else "")
    return Timed(name, config.batch_size, step, first_seconds, memory)


def measure_ceiling(variant: Timed, scale: Scale, device: torch.device) -> Ceiling | None:
    """Records a step and times its heavy operations alone; None if they cannot be replayed here."""
    with Recorder() as recorder:
        variant.step()
    try:
        seconds = median_seconds(replay(recorder.calls, device), scale.steps, device)
    except (RuntimeError, TypeError) as error:
        print(f"{variant.name}: the ceiling cannot be replayed: {error}", file=sys.stderr, flush=True)
        return None
    return Ceiling(seconds, recorder.flops)


def write_profile(context: Context, variant: Timed, device: torch.device) -> None:
    """Writes a table of the kernels, or operators on the CPU, that take most of the step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED_STEPS):
            variant.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    times = {
        event.key: (event.count, event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total)
        for event in profile.key_averages()
        if event.device_type == kind and not event.is_user_annotation
    }
    total = sum(time for _, time in times.values())
    lines = [
        f"{variant.name}, compile {context.scale.modes[-1]}: {total / PROFILED_STEPS / 1e3:.1f} ms of the device per step, "
        f"{sum(count for count, _ in times.values()) // PROFILED_STEPS} kernels",
        "",
        f"{'share':>6} {'ms/step':>8} {'calls':>6}  kernel",
    ]
    for key, (count, duration) in sorted(times.items(), key=lambda item: -item[1][1])[:TOP]:
        per_step = duration / PROFILED_STEPS / 1e3
        lines.append(f"{duration / max(total, 1e-9):6.1%} {per_step:8.3f} {count / PROFILED_STEPS:6.0f}  {key[:150]}")
    (context.out / "kernels.txt").write_text("\n".join(lines) + "\n")
