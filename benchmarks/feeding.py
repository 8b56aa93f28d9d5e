"""What feeds the step: reading files, the loader, the views; each beside what it could be at best or what others take.

    python benchmarks/feeding.py                    # the views on the CPU
    python benchmarks/feeding.py --device cuda

Reading and the loader stand beside Pillow's bare decoding of the same files on every core that decodes: the limit. The
views of a batch stand beside torchvision's transforms of the same views, image by image on one core as a worker runs them.
All take turns, and ratios are round by round within this one run.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from synthetic_photos import draw_images
from machine import machine, words
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "rivals"))
from contender import Task
from plain import transforms

from repre.data.io.decode import read_image
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader, stack
from repre.data.views.render import ViewsConfig, dino_views, make_views, simclr_views
from repre.types import Batch

HERE = Path(__file__).parent
CANVASES = (192, 448, 512)
N_LOCAL = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--count", type=int, default=256, help="images in a round")
    parser.add_argument("--sizes", type=int, nargs="*", default=[96, 224], help="of the global views")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1 if given.device == "cpu" else torch.get_num_threads())
    folder = draw_images(HERE / "data" / str(given.count), given.count)
    jobs = [*reading(folder), *loading(folder, given.workers)]
    for size in given.sizes:
        jobs += viewing(folder, size, torch.device(given.device))
    taken: dict[str, list[float]] = {name: [] for name, _, _ in jobs}
    for number in range(given.rounds + 1):
        print(f"round {number} of {given.rounds}{'' if number else ' (warm-up)'}", file=sys.stderr, flush=True)
        for name, _, function in jobs:
            begun = time.perf_counter()
            images = function()
            if number:
                taken[name].append(1e3 * (time.perf_counter() - begun) / images)
    found = {
        "machine": machine(given.device),
        "workers": given.workers,
        "against": {name: against for name, against, _ in jobs},
        "ms_per_image": taken,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"feeding-{given.device}.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(found)
    (given.out / f"feeding-{given.device}.md").write_text(text)
    print(text)


Job = tuple[str, str, Callable[[], int]]
"""A name, the name of what it is held against, and a function that gives how many images it went through."""
LIMIT = "Pillow decodes whole images"


def reading(folder: Path) -> list[Job]:
    paths = sorted(folder.glob("*.jpg"))

    def bare() -> int:
        for path in paths:
            with Image.open(path) as file:
                file.convert("RGB")
        return len(paths)

    def ours(canvas: int) -> int:
        return len([read_image(path, canvas=canvas) for path in paths])

    names = [(f"repre reads for a canvas of {canvas}", canvas) for canvas in CANVASES]
    return [(LIMIT, "", bare), *((name, LIMIT, lambda canvas=canvas: ours(canvas)) for name, canvas in names)]


def loading(folder: Path, workers: int) -> list[Job]:
    source = open_source(str(folder), canvas=512)

    def batches(processes: int) -> int:
        loader = Loader(source, batch_size=32, epochs=4, seed=0, canvas=512, workers=processes)
        return sum(len(batch.pixels) for batch in loader)

    one, many = "repre's loader, in this process", f"repre's loader, {workers} processes"
    return [(one, LIMIT, lambda: batches(0)), (many, LIMIT, lambda: batches(workers))]


def viewing(folder: Path, size: int, device: torch.device) -> list[Job]:
    paths = sorted(folder.glob("*.jpg"))[:64]
    canvas = 512
    pixels, sizes = stack([read_image(path, canvas=canvas) for path in paths], canvas=canvas)
    positions = torch.arange(len(paths))
    batch = Batch(pixels, sizes, positions, positions, 0)
    images = [Image.open(path).convert("RGB") for path in paths]

    def ours(config: ViewsConfig) -> int:
        make_views(batch, config, seed=0, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(paths)

    def theirs(method: str) -> int:
        made = transforms(task(method, size))
        for image in images:
            for transform in made:
                transform(image)
        return len(paths)

    jobs: list[Job] = []
    local = local_size(size)
    for method, config, told in (
        ("simclr", simclr_views(size, target="view"), f"SimCLR's 2 x {size}"),
        ("dino", dino_views(size, local, N_LOCAL, target="view"), f"DINO's 2 x {size} + {N_LOCAL} x {local}"),
    ):
        other = f"torchvision's transforms, {told}"
        jobs.append((other, "", lambda method=method: theirs(method)))
        jobs.append((f"repre's views of a batch, {told}", other, lambda config=config: ours(config)))
    return jobs


def task(method: str, size: int) -> Task:
    """What the plain loop's transforms read of a task."""
    return Task(images="", method=method, size=size, local_size=local_size(size), n_local=N_LOCAL, prototypes=0, patch=16,
                dim=0, depth=0, heads=0, batch=0, steps=0, warmup=0, workers=0, device="cpu", precision="fp32",
                out="")  # fmt: skip


def local_size(size: int) -> int:
    """Of DINO's local views: 96 for 224, 48 for 96."""
    return size * 3 // 7 // 16 * 16 if size >= 112 else size // 2


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{words(found['machine'])}; {len(next(iter(found['ms_per_image'].values())))} rounds",
        "",
        "| | ms per image, median (range) | held against | times as fast, median (range) |",
        "|---|---|---|---|",
    ]
    for name, taken in found["ms_per_image"].items():
        other = found["against"][name]
        times = [b / a for a, b in zip(taken, found["ms_per_image"].get(other, []))]
        told = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})" if times else ""
        lines.append(
            f"| {name} | {statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f}) | {other} | {told} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
