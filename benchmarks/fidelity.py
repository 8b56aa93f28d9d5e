"""What decoding onto smaller squares costs the views in detail, and what it saves in time and memory.

    python benchmarks/fidelity.py photos/ --at-least 900

Every view is rendered from the file as it is and from the file shrunk to each decode size, with the same random numbers.
Detail is the energy of the Laplacian of the gray views, as a share of that of the views of whole files. One core.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine, machine
from PIL import Image

from repre.data.io.decode import read_image
from repre.data.loading.loader import stack
from repre.data.views.augmentations import ViewConfig, draw
from repre.data.views.color import to_grayscale
from repre.data.views.geometry import crop_resize
from repre.data.views.random_streams import RandomStreams

VIEWS = (
    ("224 px of 8 to 100 %", 224, (0.08, 1.0)),
    ("224 px of 25 to 100 %", 224, (0.25, 1.0)),
    ("96 px of 8 to 100 %", 96, (0.08, 1.0)),
    ("96 px of 25 to 100 %", 96, (0.25, 1.0)),
    ("96 px of 5 to 25 %", 96, (0.05, 0.25)),
)
"""Name, side in pixels, and the lowest and highest share of the image's area."""
DRAWS = 8
"""Crops of every file and view."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs as JPEG files, searched recursively")
    parser.add_argument("--at-least", type=int, default=0, help="leave out files whose long side is shorter")
    parser.add_argument("--sizes", type=int, nargs="*", default=[216, 448, 504, 512, 624, 768])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the times, after one to warm up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = [path for path in sorted(args.folder.rglob("*.jpg")) if long_side(path) >= args.at_least]
    print(f"{describe_machine(machine('cpu'))}; {len(paths)} files, {DRAWS} crops of each; one core\n")
    sizes = [*args.sizes, None]
    detail = {size: [view_detail(paths, size, *view) for _, *view in VIEWS] for size in sizes}
    times = decode_times(paths, sizes, rounds=args.rounds)
    print(
        "| decode size | ms per image, median (range) | KiB of a full square |" + "|".join(n for n, *_ in VIEWS) + "|"
    )
    print("|" + "---|" * (3 + len(VIEWS)))
    for size in sizes:
        shares = [
            f"{energy / whole:.2f}, {enlarged:.0%}"
            for (energy, enlarged), (whole, _) in zip(detail[size], detail[None])
        ]
        spread = f"{statistics.median(times[size]):.2f} ({min(times[size]):.2f} to {max(times[size]):.2f})"
        memory = "" if size is None else f"{3 * size**2 / 1024:.0f}"
        print(f"| {size or 'whole files'} | {spread} | {memory} | {' | '.join(shares)} |")
    print("\nEach view: share of the detail, share of the crops that are enlarged.")


def long_side(path: Path) -> int:
    """Returns the longer side of a file in pixels."""
    with Image.open(path) as file:
        return max(file.size)


def view_detail(
    paths: list[Path], decode_size: int | None, side: int, scale: tuple[float, float]
) -> tuple[float, float]:
    """Returns the Laplacian energy of the views, and the share of crops with fewer pixels than the view."""
    energy, enlarged = 0.0, 0.0
    for number, path in enumerate(paths):
        image = read_image(path, canvas=decode_size)
        pixels, sizes = stack([image])
        positions = torch.arange(number * DRAWS, (number + 1) * DRAWS)
        streams = RandomStreams(seed=0, epoch=0, positions=positions)
        drawn = draw(ViewConfig(scale=scale), sizes.expand(DRAWS, 2), streams)
        crops = crop_resize(
            pixels.expand(DRAWS, -1, -1, -1), drawn.boxes, drawn.flip, size=side, value_range=(0.0, 255.0)
        )
        energy += laplacian_energy(crops)
        enlarged += float((drawn.boxes[:, 2:].prod(dim=1) < side**2).float().mean())
    return energy / len(paths), enlarged / len(paths)


def laplacian_energy(images: torch.Tensor) -> float:
    """Returns the mean square of the Laplacian of the gray of images [B, 3, S, S]."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return float(F.conv2d(to_grayscale(images), kernel[None, None]).square().mean())


def decode_times(paths: list[Path], sizes: list[int | None], *, rounds: int) -> dict[int | None, list[float]]:
    """Returns the milliseconds per image of every round, from the file to its place on a square, by decode size."""
    times: dict[int | None, list[float]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size in sizes:
            started = time.process_time()
            for start in range(0, len(paths), 16):
                images: list[np.ndarray] = [read_image(path, canvas=size) for path in paths[start : start + 16]]
                stack(images)
            if number:
                times[size].append(1e3 * (time.process_time() - started) / len(paths))
    return times


if __name__ == "__main__":
    main()
