"""`repre recipes`: list the recipes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repre.cli.parsing import parse
from repre.config import RunConfig
from repre.frameworks import framework_name
from repre.recipes import BY_IMAGES, ENCODERS, FRAMEWORK_RECIPES, RECIPES, recipe
from repre.small_data import FEWEST, MOST

DESCRIPTION = """List the recipes, with data, memory and time of each.

Examples:
  repre recipes
  repre pretrain small-data --data photos/ --print-config"""

FOR_WHOM = {
    "moco-v3": "the default for ViTs",
    "dino": "k-NN, retrieval; small views take time",
    "moby": "the default for Swins",
    "byol": "MoCo v3's settings without negatives",
    "simclr": "no teacher",
    "dinov2": "patch features too; large batches",
    "ibot": "patch features too; smaller batches",
    "pixels": "reconstruction alone (SimMIM)",
}
"""Who uses a framework, by its name in recipes."""
GIGA_MACS = {"vit-tiny": 1.26, "vit-small": 4.6, "vit-base": 17.6, "swin-tiny": 4.5, "swin-small": 8.7}
"""Products and sums of one image of 224 pixels, in 10^9, by encoder."""
MEGA_VALUES = {"vit-tiny": 0.45, "vit-small": 0.91, "vit-base": 1.82, "swin-tiny": 1.43, "swin-small": 2.33}
"""Width of the tokens, summed over tokens and blocks, of one image of 224 pixels, in 10^6, by encoder."""
GIGA_MACS_PER_S = 107_000
"""Speed of MoCo v3's compiled step with ViT-S on one H100 (docs/performance.md)."""
BYTES_PER_VALUE = 26
"""Memory of that step, per value of `MEGA_VALUES` and view (docs/performance.md)."""
IMAGENET = 1_281_167
"""Images of ImageNet-1k, for which the published recipes are made."""


@dataclass(frozen=True, kw_only=True)
class RecipesOptions:
    """Options of `repre recipes`: none."""


def main(arguments: Sequence[str]) -> int:
    parse(RecipesOptions, arguments, command="recipes", description=DESCRIPTION)
    print(recipe_list())
    return 0


def recipe_list() -> str:
    """All recipes as text: how to choose one, and a line for each."""
    chosen = [
        ("to see it run", "quickstart", "a few minutes on two cores, on the embedded scenes"),
        (f"{FEWEST} to {MOST:,} images", "small-data", "settings chosen for the number of images, minutes to hours"),
        ("a million images", "ENCODER-FRAMEWORK", "the published settings of a framework"),
    ]
    lines = ["Which recipe:", *(f"  {whom:22} {name:20} {what}" for whom, name, what in chosen), ""]
    header = ("recipe", "images", "batch", "epochs", "memory", "time", "for")
    rows = [header, *(_row(name) for name in RECIPES)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines += ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [
        "",
        "Memory (the whole batch at once) and time (one H100) are estimates from measured steps of MoCo v3 with ViT-S.",
        "On a smaller GPU a step is computed in pieces that fit (compute.micro_batch): about a third more time.",
        "`repre plan RECIPE --data photos/` measures both on this machine.",
    ]
    return "\n".join(lines)


def _row(name: str) -> tuple[str, ...]:
    """Cells of a recipe's line."""
    config = recipe(name)
    if name == "quickstart":
        return (
            name,
            "scenes",
            str(config.batch_size),
            str(config.epochs),
            "1 GiB",
            "minutes",
            "a first try, also on a CPU",
        )
    if name in BY_IMAGES:
        return (
            name,
            f"{FEWEST}-{MOST // 1000}k",
            "chosen",
            "chosen",
            "1-8 GiB",
            "minutes-hours",
            "few images: start here",
        )
    encoder = next(key for key in ENCODERS if name.startswith(f"{key}-"))
    published = name.removeprefix(f"{encoder}-")
    framework = next(key for key in FRAMEWORK_RECIPES if published == key or published.startswith(f"{key}-"))
    own = {"timm": "timm's start and heads, for its weights", "released": "as the released weights"}
    whom = own.get(published.removeprefix(f"{framework}-"), FOR_WHOM[framework])
    memory, hours = estimate(config, encoder)
    time = f"{hours:.0f} h" if hours < 100 else f"{hours / 24:.0f} days"
    return name, "1.3 M", str(config.batch_size), str(config.epochs), f"{memory:.0f} GiB", time, whom


def estimate(config: RunConfig, encoder: str) -> tuple[float, float]:
    """Memory in GiB of a step with the whole batch, and hours of the run on ImageNet-1k, both on one H100.

    Args:
        encoder: key of `ENCODERS`.
    """
    views = config.views
    large = views.n_global * math.prod(views.shape) / 224**2
    small = views.n_local * math.prod(views.local_shape) / 224**2
    teacher = 0 if framework_name(config.framework) in ("simclr", "pixels") else large
    passes = 3 * (large + small) + teacher  # a backward pass is two forward passes
    memory = config.batch_size * (large + small) * MEGA_VALUES[encoder] * 1e6 * BYTES_PER_VALUE / 2**30
    hours = IMAGENET * config.epochs * passes * GIGA_MACS[encoder] / GIGA_MACS_PER_S / 3600
    return memory, hours
