"""Writes the table of docs/hardware.md: images that a recipe encodes at once in the memory of a GPU, estimated without one.

    python docs/make_hardware.py

Weights, views and heads are counted on the CPU as a run counts them; activations are those of `repre recipes`, which one
measured step scales. It takes about a minute.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch

from repre.cli.list_recipes import estimate
from repre.config import RunConfig
from repre.recipes import ENCODERS, recipe
from repre.training.memory import GIB, MEMORY_SHARE, feeder_bytes, head_bytes, model_bytes, piece_sizes, view_bytes
from repre.training.run_state import RunState

PAGE = Path(__file__).with_name("hardware.md")
TABLE = re.compile(r"(?<=<!-- written by docs/make_hardware.py -->\n\n).*?(?=\n<!-- end -->)", re.S)
CARDS = (8, 12, 16, 24, 40, 80)
"""Memory of the cards, in GiB."""
DRIVER = 0.5
"""GiB that CUDA itself takes."""
RECIPES = (
    "small-data, 1,000 images",
    "small-data, 10,000 images",
    "vit-tiny-moco-v3",
    "vit-small-moco-v3",
    "vit-base-moco-v3",
    "swin-tiny-moby",
    "swin-small-moby",
    "vit-small-dino",
    "vit-base-dino",
)


def table() -> str:
    """The whole table in Markdown."""
    head = ["recipe", "batch", "fixed, GiB", "per image, MiB", *(f"{card} GB" for card in CARDS)]
    lines = [head, ["---"] * len(head), *(row(name) for name in RECIPES)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row(name: str) -> list[str]:
    """The cells of a recipe."""
    published, _, images = name.partition(", ")
    config = recipe(published, images=int(images.split()[0].replace(",", "")) if images else None)
    encoder = next(key for key, timm in ENCODERS.items() if timm == config.encoder.name)
    batch = config.batch_size
    fixed, image = fixed_bytes(config) / GIB, estimate(config, encoder)[0] / batch
    numbers = [largest(batch, fixed=fixed, image=image, memory=card - DRIVER) for card in CARDS]
    cells = ["whole" if number == batch else str(number or "-") for number in numbers]
    return [
        f"`{published}`" + (f", {images}" if images else ""),
        str(batch),
        f"{fixed:.1f}",
        f"{1024 * image:.0f}",
        *cells,
    ]


def fixed_bytes(config: RunConfig) -> float:
    """Bytes that do not depend on the number of images encoded at once: the model, two batches of views, heads and loss."""
    state = RunState(replace(config, runtime=replace(config.runtime, device="cpu")), torch.device("cpu"))
    few, more = (head_bytes(state, count=count) for count in (32, 64))
    heads = few + (more - few) / 32 * (config.batch_size - 32)
    views = 2 * view_bytes(config, config.batch_size)  # of this step and of the next one
    return model_bytes(state) + views + heads + feeder_bytes(config, config.batch_size)


def largest(batch: int, *, fixed: float, image: float, memory: float) -> int:
    """The largest piece of a batch that fits; 0 if none does. All sizes are in GiB."""
    fitting = (size for size in piece_sizes(batch) if fixed + size * image <= MEMORY_SHARE * memory)
    return next(fitting, 0)


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
