"""Which figures are drawn together, what they mean, and how many points of them reach the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from repre.reporting.run_data import RunData


@dataclass(frozen=True)
class Family:
    """Figures that share one chart: those whose names match a pattern.

    Attributes:
        words: what they say, and which way is good.
        form: number, share (shown in per cent) or log (drawn on a logarithmic axis at first).
    """

    group: str
    title: str
    pattern: str
    words: str
    form: str = "number"


FAMILIES = (
    Family("Objectives", "Losses", r"loss|contrastive|pixel",
           "What is minimized: the contrastive loss, the pixel loss, and their weighted sum."),
    Family("Objectives", "Own image found", r"accuracy",
           "Share of the batch whose nearest key is the other view of the same image.", "share"),
    Family("Objectives", "Negatives that count", r"effective_negatives",
           "How many other images the contrastive loss really compares with."),
    Family("Objectives", "Share of the negatives that count", r"negative_share",
           "The same as a share of all: near 0 the temperature is too low, near 1 too high.", "share"),
    Family("Objectives", "Entropy of the prototypes", r"teacher_entropy|prototype_(entropy|information)",
           "Each image should pick few prototypes (low teacher entropy), all images together many."),
    Family("Embeddings", "Probes with labels", r"(knn|miou|linear)\w*",
           "Figures of labeled probes on the frozen encoder; higher is better.", "share"),
    Family("Embeddings", "Effective rank", r"rankme",
           "RankMe: how many directions the embeddings use. Near 1 is collapse."),
    Family("Embeddings", "Spread", r"embedding_std|batch_std",
           "1 is uniform on the sphere, 0 is collapse."),
    Family("Embeddings", "Alignment", r"alignment",
           "Mean squared distance of two views of one image; lower is better."),
    Family("Embeddings", "Uniformity", r"uniformity",
           "How evenly the images fill the sphere; lower is better, 0 is collapse."),
    Family("Embeddings", "Agreement of teacher and student", r"teacher_agreement|agreement",
           "Mean cosine of their embeddings of the same view."),
    Family("Embeddings", "Movement between checks", r"(teacher|student)_moved",
           "How far embeddings went since the check before. A teacher that never moves is frozen."),
    Family("Embeddings", "Teacher follows", r"teacher_follows",
           "How far the teacher went as a share of the student's way; near 0 it is frozen."),
    Family("Patches", "Correspondence", r"correspondence(_chance)?",
           "Share of patches that find their own place in another view of the image; the gray line is chance.", "share"),
    Family("Patches", "Effective rank of patch features", r"patch_rank",
           "How many directions the patches of the last level use."),
    Family("Patches", "Likeness of neighboring levels", r"level_similarity_\w+",
           "Linear CKA; 1 where a level adds nothing to the one before it."),
    Family("Reconstruction", "PSNR, dB", r"psnr(_flat)?",
           "Fidelity on the fixed images; the gray line is a picture of one color."),
    Family("Reconstruction", "SSIM", r"ssim", "Structural similarity on the fixed images; 1 is equal."),
    Family("Reconstruction", "What each level adds", r"level_share_\w+",
           "Share of the change of the pixels when a level is blotted out.", "share"),
    Family("Balance of the objectives", "Gradient norms", r"gradient_(contrastive|pixel)_\w+",
           "What each loss asks of the shared blocks: first, middle, last.", "log"),
    Family("Balance of the objectives", "Cosine of the gradients", r"gradient_cosine_\w+",
           "Below 0 a step for one loss sets the other back."),
    Family("Balance of the objectives", "Pixel over contrastive", r"gradient_ratio",
           "1 is an even balance.", "log"),
    Family("Optimization", "Learning rate", r"lr", ""),
    Family("Optimization", "Norm of the gradient", r"grad_norm", "Before clipping.", "log"),
    Family("Optimization", "Size of an update", r"update\w*",
           "Change of the weights per step, relative to their length.", "log"),
    Family("Optimization", "Size of the weights", r"weight_size", "Root mean square of the encoder's matrices."),
    Family("Time", "Images per second", r"images_per_s", "All processes together."),
    Family("Time", "Waiting for data", r"data_wait", "Share of the time; near 0 is good.", "share"),
    Family("Time", "Seconds of a validation", r"validation_seconds|probe_seconds", "Time spent in monitors and probe."),
)  # fmt: skip
REFERENCE = ("psnr_flat", "correspondence_chance")
"""Figures that others are held against; drawn in gray."""
EXACT = ("lr", "weight_size")
"""Figures without noise, which are never smoothed."""
NOT_DRAWN = ("step", "epoch", "distinct_images")
COLUMNS = 120
"""Most figures that are drawn."""


@dataclass
class Chart:
    """One chart of one or several runs, ready for the page's script."""

    group: str
    title: str
    words: str
    form: str
    series: list[dict[str, Any]] = field(default_factory=list)


def charts(run: RunData, *, points: int) -> list[Chart]:
    """The charts of one run, in the order of `FAMILIES`, unknown figures last; at most `points` points a line."""
    return _charts([(None, run)], points=points, together=True)


def overlays(runs: Sequence[tuple[str, RunData]], *, points: int) -> list[Chart]:
    """One chart per figure with a line per (label, run)."""
    return _charts(list(runs), points=points, together=False)


def _charts(runs: Sequence[tuple[str | None, RunData]], *, points: int, together: bool) -> list[Chart]:
    found: dict[tuple[int, str], Chart] = {}
    for place, (run_label, run) in enumerate(runs):
        for name, validations in _names(run)[:COLUMNS]:
            x, y = thin(*run.column(name, validations=validations), points=points)
            if not x:
                continue
            order, family = _family(name)
            key = (order, family.title if together else name)
            if key not in found:
                single = family.title if together or family.pattern == name else f"{family.title}: {name}"
                found[key] = Chart(family.group, single, family.words, family.form)
            color = -1 if name in REFERENCE and together else len([s for s in found[key].series if s["color"] >= 0])
            line = {
                "name": run_label or label(name),
                "x": x,
                "y": y,
                "validations": validations,
                "color": color if together else place,
            }
            line["exact"] = name in EXACT
            found[key].series.append(line)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _names(run: RunData) -> list[tuple[str, bool]]:
    """Every figure, and whether it is one of the looks; what is logged at steps too is not."""
    logged, looked = ({name: None for row in rows for name in row} for rows in (run.rows, run.validations))
    names = [(name, False) for name in logged] + [(name, True) for name in looked if name not in logged]
    return [key for key in names if key[0] not in NOT_DRAWN]


def label(name: str) -> str:
    """A figure's name in a legend; levels count from 1, as everywhere on the page."""
    if found := re.fullmatch(r"level_(?:share|similarity)_(\d+)(?:_(\d+))?", name):
        first, second = int(found[1]) + 1, found[2]
        return f"level {first}" if second is None else f"levels {first} and {int(second) + 1}"
    return name.removeprefix("gradient_").removeprefix("cosine_").replace("_", " ")


def _family(name: str) -> tuple[int, Family]:
    for order, family in enumerate(FAMILIES):
        if re.fullmatch(family.pattern, name):
            return order, family
    return len(FAMILIES), Family("Other figures", name[:60], re.escape(name), "")


def thin(x: list[float], y: list[float], *, points: int) -> tuple[list[float], list[float]]:
    """At most `points` points of a line, so chosen that no spike is lost: the lowest and the highest of every bin, and
    the two ends. Values keep six digits."""
    if len(x) > points:
        bins = max(1, points // 2 - 1)
        kept = {0, len(x) - 1}
        for b in range(bins):
            part = range(b * len(x) // bins, (b + 1) * len(x) // bins)
            kept |= {min(part, key=y.__getitem__), max(part, key=y.__getitem__)}
        x, y = [x[i] for i in sorted(kept)], [y[i] for i in sorted(kept)]
    return x, [float(f"{value:.6g}") for value in y]
