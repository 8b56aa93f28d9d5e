"""What feeds the step: time of the device and of the host for the views of a batch, and the loader alone."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from gpu_parts.context import Context
from synthetic_photos import HEIGHT, WIDTH

from repre.data.io.cache_folders import with_cache
from repre.data.io.decode import read_image
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader, stack
from repre.data.loading.resident import keep_resident
from repre.data.loading.workers import IN_FLIGHT_GIB
from repre.data.views.render import draw_views, make_views
from repre.data.views.view_recipes import ViewsConfig, dino_views, simclr_views
from repre.types import Batch

CALLS = 10
WARMUP = 3
DISTINCT = 100
"""Files that the canvases are decoded from."""
SLEEP_CYCLES = 60_000_000
"""Clock cycles, about 40 ms, that the device sleeps while the host queues the work to be timed."""
EPOCHS = 3
CACHE_GIB = 50.0


def measure_views(context: Context) -> None:
    """Measures the views of a batch, from canvases of every size."""
    scale, device = context.scale, torch.device(context.scale.device)
    recipes = {
        f"SimCLR, 2 x {scale.size}": simclr_views(scale.size, target="view"),
        f"DINO, 2 x {scale.size} + {scale.n_local} x {scale.local_size}": dino_views(
            scale.size, scale.local_size, scale.n_local, target="view"
        ),
    }
    for canvas in scale.canvases:
        batch = read_batch(context.images, scale.batch, canvas)
        pinned = batch.pixels.pin_memory() if device.type == "cuda" else batch.pixels
        copies = [device_ms(partial(pinned.to, device, non_blocking=True), device) for _ in range(CALLS)]
        context.emit("views", of="pixels to the device", canvas=canvas, images=scale.batch, device_ms=copies)
        moved = Batch(pinned.to(device), batch.sizes, batch.positions, batch.indices, batch.epoch)
        for name, config in recipes.items():
            measure_recipe(context, name, canvas, moved, config, device)


def measure_recipe(
    context: Context, name: str, canvas: int, batch: Batch, config: ViewsConfig, device: torch.device
) -> None:
    """Measures the views of one recipe; their parameters are drawn before, as in the loader's workers."""
    draw = partial(draw_views, config, batch.sizes, batch.positions, epoch=batch.epoch, seed=0)
    ready = replace(batch, parameters=draw())
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16  # as the run does

    def render() -> None:
        make_views(ready, config, seed=0, device=device, dtype=dtype)

    started = time.perf_counter()
    for _ in range(WARMUP):
        render()
    synchronize(device)
    first = time.perf_counter() - started
    context.emit(
        "views",
        of=name,
        canvas=canvas,
        images=len(batch.positions),
        device_ms=[device_ms(render, device) for _ in range(CALLS)],
        host_ms=[host_ms(render, device) for _ in range(CALLS)],
        draw_ms=[host_ms(draw, device) for _ in range(CALLS)],
        launches=launches(render, device),
        first_calls_s=first,
    )


def read_batch(folder: Path, count: int, canvas: int) -> Batch:
    """Decodes a batch of the first files of a folder, which repeat if there are few."""
    paths = sorted(folder.glob("*.jpg"))[:DISTINCT]
    images = [read_image(path, canvas=canvas) for path in paths]
    pixels, sizes = stack([images[index % len(images)] for index in range(count)])
    positions = torch.arange(count)
    return Batch(pixels, sizes, positions, positions, 0)


def synchronize(device: torch.device) -> None:
    """Waits for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def host_ms(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds that the host needs to queue a call."""
    synchronize(device)
    started = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - started)


def device_ms(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds that the device needs for a call, without waiting for the host as far as its queue is long enough."""
    if device.type != "cuda":
        return host_ms(function, device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(SLEEP_CYCLES)
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def launches(function: Callable[[], object], device: torch.device) -> int:
    """Kernels and copies that a call runs on the device; operators on the CPU."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    kind = torch.autograd.DeviceType.CPU
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        kind = torch.autograd.DeviceType.CUDA
    with torch.profiler.profile(activities=activities) as profile:
        function()
        synchronize(device)
    return sum(event.count for event in profile.key_averages() if event.device_type == kind)


def measure_loader(context: Context) -> None:
    """Measures the loader alone: the first epoch decodes, the later ones may read what it kept; at last on the device."""
    scale, device = context.scale, torch.device(context.scale.device)
    for canvas in reversed(scale.canvases):
        source = with_cache(
            open_source(str(context.images), canvas=canvas), mode="on", gib=CACHE_GIB, epochs=EPOCHS, log=print
        )
        keep = partial(
            keep_resident,
            memory="on",
            device=device,
            canvas=canvas,
            workers=scale.workers,
            in_flight_gib=IN_FLIGHT_GIB,
            log=print,
        )
        build = partial(
            Loader, source, batch_size=scale.batch, epochs=EPOCHS, seed=0, canvas=canvas, workers=scale.workers
        )
        is_last = canvas == scale.canvases[0]  # it is the smallest, and its images are read from the disk
        for loader in (build(), build(keep=keep)) if is_last else (build(),):
            before = shared_gib()
            first_batch, epochs, peak = time_epochs(loader, scale.batch, device)
            context.emit(
                "loader",
                jpegs=f"{WIDTH} x {HEIGHT}",
                canvas=canvas,
                processes=scale.workers,
                images="in device memory" if loader.is_resident else "in files",
                images_per_s_first_epoch=epochs[0],
                images_per_s_later_epochs=epochs[1:],
                first_batch_s=first_batch,
                shared_memory_gib=peak - before,
            )


def time_epochs(loader: Loader, batch: int, device: torch.device) -> tuple[float, list[float], float]:
    """Seconds until the first batch, images per second of every epoch without that batch, and the peak of `shared_gib`."""
    started = begin = time.perf_counter()
    first_batch, epochs, peak = 0.0, [], 0.0
    for number, _ in enumerate(loader, start=1):
        now = time.perf_counter()
        if number == 1:
            first_batch, begin = now - started, now
        peak = max(peak, shared_gib())
        if number % loader.steps_per_epoch == 0:
            synchronize(device)
            now = time.perf_counter()
            steps = loader.steps_per_epoch - (1 if number == loader.steps_per_epoch else 0)
            epochs.append(steps * batch / (now - begin))
            begin = now
    return first_batch, epochs, peak


def shared_gib() -> float:
    """Shared memory of the whole machine in GiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) / 2**20
    return 0.0
