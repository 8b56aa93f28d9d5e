"""Speed of everything before the step: reading files, the loader, the views.

    python benchmarks/feeding.py                    # views on the CPU
    python benchmarks/feeding.py --device cuda

Reading and the loader are compared with their limit: Pillow decoding the same files on the same number of cores. The views
of a batch are compared with the same views by torchvision's transforms, image by image on one core, as in a worker. All
jobs alternate, and ratios are between times of the same round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import describe_machine, machine
from PIL import Image
from synthetic_photos import draw_photos

sys.path.insert(0, str(Path(__file__).parent / "rivals"))
from contender import Task
from plain import transforms

from repre.data.io.decode import read_image
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader, stack
from repre.data.views.render import make_views
from repre.data.views.view_recipes import ViewsConfig, dino_views, simclr_views
from repre.types import Batch
from repre.utils.io import write_json

HERE = Path(__file__).parent
DECODE_SIZES = (192, 448, 512)
N_LOCAL = 6
LIMIT = "Pillow decodes whole images"


class Job(NamedTuple):
    """Something to time."""

    name: str
    baseline: str
    """Name of the job to compare with; empty without one."""
    run: Callable[[], int]
    """Does the work and returns the number of images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="device that makes the views")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes of the loader")
    parser.add_argument("--count", type=int, default=256, help="number of images")
    parser.add_argument("--sizes", type=int, nargs="*", default=[96, 224], help="sides of the global views")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to measure, after one to warm up")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.device == "cpu" else torch.get_num_threads())
    photos = draw_photos(HERE / "data" / str(args.count), args.count)
    jobs = [*reading_jobs(photos), *loading_jobs(photos, args.workers)]
    for size in args.sizes:
        jobs += view_jobs(photos, size, torch.device(args.device))
    results = {
        "machine": machine(args.device),
        "workers": args.workers,
        "against": {job.name: job.baseline for job in jobs},
        "ms_per_image": measure(jobs, rounds=args.rounds),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"feeding-{args.device}.json", results)
    text = table(results)
    (args.out / f"feeding-{args.device}.md").write_text(text)
    print(text)


def measure(jobs: list[Job], *, rounds: int) -> dict[str, list[float]]:
    """Runs all jobs in turn and returns the milliseconds per image of every round, by job."""
    times: dict[str, list[float]] = {job.name: [] for job in jobs}
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}{'' if number else ' (warm-up)'}", file=sys.stderr, flush=True)
        for job in jobs:
            started = time.perf_counter()
            images = job.run()
            if number:
                times[job.name].append(1e3 * (time.perf_counter() - started) / images)
    return times


def reading_jobs(folder: Path) -> list[Job]:
    """Returns the jobs that read files one by one."""
    paths = sorted(folder.glob("*.jpg"))

    def pillow() -> int:
        for path in paths:
            with Image.open(path) as file:
                file.convert("RGB")
        return len(paths)

    def repre(decode_size: int) -> int:
        return len([read_image(path, canvas=decode_size) for path in paths])

    return [
        Job(LIMIT, "", pillow),
        *(Job(f"repre reads for a canvas of {size}", LIMIT, partial(repre, size)) for size in DECODE_SIZES),
    ]


def loading_jobs(folder: Path, workers: int) -> list[Job]:
    """Returns the jobs that run the loader."""
    source = open_source(str(folder), canvas=512)

    def load(processes: int) -> int:
        loader = Loader(source, batch_size=32, epochs=4, seed=0, canvas=512, workers=processes)
        return sum(len(batch.pixels) for batch in loader)

    return [
        Job("repre's loader, in this process", LIMIT, partial(load, 0)),
        Job(f"repre's loader, {workers} processes", LIMIT, partial(load, workers)),
    ]


def view_jobs(folder: Path, size: int, device: torch.device) -> list[Job]:
    """Returns the jobs that make the views of a batch."""
    paths = sorted(folder.glob("*.jpg"))[:64]
    canvas = 512
    pixels, sizes = stack([read_image(path, canvas=canvas) for path in paths])
    positions = torch.arange(len(paths))
    batch = Batch(pixels, sizes, positions, positions, 0)
    images = [Image.open(path).convert("RGB") for path in paths]

    def repre(config: ViewsConfig) -> int:
        make_views(batch, config, seed=0, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(paths)

    def torchvision(method: str) -> int:
        view_transforms = transforms(view_task(method, size))
        for image in images:
            for transform in view_transforms:
                transform(image)
        return len(paths)

    jobs: list[Job] = []
    local = local_size(size)
    for method, config, views in (
        ("simclr", simclr_views(size, target="view"), f"SimCLR's 2 x {size}"),
        ("dino", dino_views(size, local, N_LOCAL, target="view"), f"DINO's 2 x {size} + {N_LOCAL} x {local}"),
    ):
        baseline = f"torchvision's transforms, {views}"
        jobs.append(Job(baseline, "", partial(torchvision, method)))
        jobs.append(Job(f"repre's views of a batch, {views}", baseline, partial(repre, config)))
    return jobs


def view_task(method: str, size: int) -> Task:
    """Returns a task with the fields that the transforms of the plain loop use."""
    return Task(images="", method=method, size=size, local_size=local_size(size), n_local=N_LOCAL, prototypes=0, patch=16,
                dim=0, depth=0, heads=0, batch=0, steps=0, warmup=0, workers=0, device="cpu", precision="fp32",
                out="")  # fmt: skip


def local_size(size: int) -> int:
    """Returns the side of DINO's local views: 96 for global views of 224, 48 for 96."""
    return size * 3 // 7 // 16 * 16 if size >= 112 else size // 2


def table(results: dict[str, Any]) -> str:
    """Returns the results in Markdown."""
    times_by_job = results["ms_per_image"]
    lines = [
        f"{describe_machine(results['machine'])}; {len(next(iter(times_by_job.values())))} rounds",
        "",
        "| | ms per image, median (range) | compared with | times as fast, median (range) |",
        "|---|---|---|---|",
    ]
    for name, times in times_by_job.items():
        baseline = results["against"][name]
        ratios = [base / own for own, base in zip(times, times_by_job.get(baseline, []))]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        milliseconds = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        lines.append(f"| {name} | {milliseconds} | {baseline} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
