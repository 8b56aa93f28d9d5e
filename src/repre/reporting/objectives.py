"""Which metrics of several runs may be put side by side: those whose settings give them the same meaning.

Contrastive losses of two frameworks, or at two temperatures, are different quantities, and a pixel loss depends on what is
hidden and on the images. Metrics of probes and times compare in any case.
"""

import json
import re
from collections.abc import Sequence

from repre.reporting.formatting import flatten
from repre.reporting.run_data import RunData

CONTRAST = re.compile(
    r"contrastive|loss_\w+|accuracy|effective_negatives|negative_share|teacher_entropy|prototype_\w+|agreement"
    r"|teacher_(agreement|moved|follows)|student_moved|gradient_\w+"
)
OF_PIXELS = re.compile(r"pixel|psnr(_flat)?|ssim|level_share_\w+")
OF_VIEWS = re.compile(r"alignment|uniformity|correspondence(_chance)?|patch_rank")
OF_IMAGES = re.compile(r"rankme|embedding_std|batch_std|distinct_images")
MEANING = re.compile(
    r"framework\.(name|.*(temperature|queue|prototypes|center|koleo|weight).*)|batch_size|reconstruction\.weight"
)
"""Settings that change what a contrastive loss means, beside how well it is met: the number of negatives is one."""


def objective(run: RunData, metric: str) -> str:
    """A key of the settings that give a metric its meaning; equal keys may be compared."""
    settings = flatten(run.config)
    pixels, views, images = "reconstruction.|views.target|views.mask", "views.", "data"
    parts: list[str] = []
    if metric == "loss" or CONTRAST.fullmatch(metric):
        parts += [name for name in settings if MEANING.fullmatch(name)]
    if metric == "loss" or OF_PIXELS.fullmatch(metric):
        parts += [
            name for name in settings if name.startswith(tuple(pixels.split("|"))) or name in (images, "views.size")
        ]
    if OF_VIEWS.fullmatch(metric):
        parts += [name for name in settings if name.startswith(views) or name == images]
    if OF_IMAGES.fullmatch(metric):
        parts += [name for name in settings if name == images]
    if OF_PIXELS.fullmatch(metric):
        parts = [name for name in parts if name != "reconstruction.weight"]
    return json.dumps({name: settings[name] for name in sorted(set(parts))})


def alike(runs: Sequence[RunData], metric: str) -> list[list[int]]:
    """Groups runs, by their index, in which a metric has the same meaning."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(objective(run, metric), []).append(index)
    return list(groups.values())
