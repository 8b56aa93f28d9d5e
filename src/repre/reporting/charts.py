"""Selects which metrics share a chart, explains them, and limits the points that reach the page."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from repre.reporting.objectives import alike
from repre.reporting.run_data import RunData

Scale = Literal["number", "share", "log"]
"""share: shown as a percentage; log: on a logarithmic axis."""


@dataclass(frozen=True)
class Family:
    """Metrics that share one chart."""

    group: str
    title: str
    pattern: str
    """Regular expression of the metrics' names."""
    description: str
    """What the metrics mean, and which way is good."""
    scale: Scale = "number"


FAMILIES = (
    Family("Objectives", "Losses", r"loss(_\w+)?|contrastive|pixel",
           "The training objective: contrastive loss and its terms, pixel loss and their weighted sum."),
    Family("Objectives", "Contrastive accuracy", r"accuracy",
           "Share of the batch whose most similar key is the other view of the same image.", "share"),
    Family("Objectives", "Effective negatives", r"effective_negatives",
           "Number of other images that carry weight in the contrastive loss."),
    Family("Objectives", "Share of effective negatives", r"negative_share",
           "Relative to all negatives. Near 0 the temperature is too low, near 1 too high.", "share"),
    Family("Objectives", "Prototype entropy", r"teacher_entropy|prototype_(entropy|information)",
           "Each image should select few prototypes (low teacher entropy); all images together should use many."),
    Family("Embeddings", "Probes on your labels", r"probe/\w+",
           "The frozen encoder on labeled images: accuracy of k-NN and of a linear classifier, mIoU of a linear head and of "
           "nearest patches; higher is better.", "share"),
    Family("Embeddings", "Labeled probes", r"(knn|miou|linear)\w*",
           "Metrics of probes with labels on the frozen encoder; higher is better.", "share"),
    Family("Embeddings", "Effective rank", r"rankme",
           "RankMe: how many directions the embeddings use. Near 1 means collapse."),
    Family("Embeddings", "Spread of the embeddings", r"embedding_std|batch_std",
           "1: uniform on the sphere. 0: collapse."),
    Family("Embeddings", "Alignment", r"alignment",
           "Mean squared distance between two views of one image; lower is better."),
    Family("Embeddings", "Uniformity", r"uniformity",
           "How evenly the embeddings cover the sphere; lower is better, 0 means collapse."),
    Family("Embeddings", "Agreement of teacher and student", r"teacher_agreement|agreement",
           "Mean cosine similarity of their embeddings of the same view."),
    Family("Embeddings", "Movement between validations", r"(teacher|student)_moved",
           "How far the embeddings moved since the previous validation. A teacher that never moves is frozen."),
    Family("Embeddings", "Movement of the teacher", r"teacher_follows",
           "Relative to the student's movement. Near 0 the teacher is frozen."),
    Family("Patches", "Patch correspondence", r"correspondence(_chance)?",
           "Share of patches matched to the same position in another view of the image. Gray: random guess.", "share"),
    Family("Patches", "Effective rank of patch features", r"patch_rank",
           "How many directions the patch features of the last level use."),
    Family("Patches", "Similarity of neighboring levels", r"level_similarity_\w+",
           "Linear CKA. 1 means that a level adds nothing to the one before it."),
    Family("Reconstruction", "PSNR, dB", r"psnr(_flat)?",
           "Fidelity on the fixed images. Gray: every image as a single color."),
    Family("Reconstruction", "SSIM", r"ssim", "Structural similarity on the fixed images; 1 means identical."),
    Family("Reconstruction", "Contribution of each level", r"level_share_\w+",
           "How much the pixels change when a level is replaced by its mean, as a share of all levels.", "share"),
    Family("Balance of the losses", "Gradient norms by loss", r"gradient_(contrastive|pixel)_\w+",
           "Gradient of each loss in the shared blocks: first, middle, last.", "log"),
    Family("Balance of the losses", "Cosine of the gradients", r"gradient_cosine_\w+",
           "Below 0, a step for one loss works against the other."),
    Family("Balance of the losses", "Pixel to contrastive gradient", r"gradient_ratio",
           "Ratio of their norms; 1 is an even balance.", "log"),
    Family("Optimization", "Learning rate", r"lr", ""),
    Family("Optimization", "Gradient norm", r"grad_norm", "Before clipping.", "log"),
    Family("Optimization", "Update size", r"update\w*", "Change of the weights per step, relative to their norm.", "log"),
    Family("Optimization", "Weight size", r"weight_size", "Root mean square of the encoder's weight matrices."),
    Family("Time", "Images per second", r"images_per_s", "All processes together."),
    Family("Time", "Waiting for data", r"data_wait", "Share of the time; near 0 is good.", "share"),
    Family("Time", "Validation, seconds", r"validation_seconds|probe_seconds", "Time for metrics and probe."),
)  # fmt: skip
REFERENCES = {"psnr_flat": "single color", "correspondence_chance": "random guess"}
"""Metrics that others are compared with, drawn in gray, and their names in the legend."""
LEGENDS = {
    "rankme": "effective rank", "embedding_std": "fixed sample", "batch_std": "batch", "psnr": "PSNR", "ssim": "SSIM",
    "knn": "k-NN on the scenes", "miou": "mIoU", "lr": "learning rate", "grad_norm": "gradient norm",
    "probe/knn": "k-NN accuracy", "probe/linear": "linear accuracy", "probe/miou": "mIoU of a linear head",
    "probe/patch_knn": "mIoU of nearest patches", "images_per_s": "images per second", "data_wait": "waiting for data",
    "loss_dino": "DINO", "loss_ibot": "iBOT", "loss_koleo": "KoLeo",
}  # fmt: skip
"""Other names in the legend than the metrics' own."""
EXACT = ("lr", "weight_size")
"""Metrics without noise, which are never smoothed."""
NOT_DRAWN = ("step", "epoch", "distinct_images")
MAX_METRICS = 120


@dataclass
class Chart:
    """One chart of one or several runs, as the page's script draws it."""

    group: str
    title: str
    description: str
    scale: Scale
    series: list[dict[str, Any]] = field(default_factory=list)
    """Lines: name, x, y, validations (whether they are points of validations), color (-1 is gray), exact."""


def run_charts(run: RunData, *, max_points: int) -> list[Chart]:
    """Gives the charts of one run in the order of `FAMILIES`, unknown metrics last; a line has at most `max_points`."""
    charts: dict[str, tuple[int, Chart]] = {}
    for name, line in _lines(run, max_points=max_points):
        order, family = _family(name)
        _, chart = charts.setdefault(family.title, (order, _chart(family, family.title)))
        color = -1 if name in REFERENCES else sum(other["color"] >= 0 for other in chart.series)
        chart.series.append({"name": label(name), "color": color, **line})
    return _in_order(charts)


def comparison_charts(runs: Sequence[RunData], *, max_points: int) -> list[Chart]:
    """Gives one chart per metric with a line per run; runs of unlike objectives do not share it."""
    charts: dict[str, tuple[int, Chart]] = {}
    for index, run in enumerate(runs):
        for name, line in _lines(run, max_points=max_points):
            order, family = _family(name)
            title = family.title if family.pattern == name else f"{family.title}: {label(name)}"
            groups = alike(runs, name)
            group = next(group for group in groups if index in group)
            if len(groups) > 1:
                title = f"{title} ({', '.join(runs[member].name for member in group)})"
            _, chart = charts.setdefault(f"{name} {group[0]}", (order, _chart(family, title)))
            chart.series.append({"name": run.name, "color": index, **line})
    return _in_order(charts)


def _chart(family: Family, title: str) -> Chart:
    return Chart(family.group, title, family.description, family.scale)


def _in_order(charts: dict[str, tuple[int, Chart]]) -> list[Chart]:
    return [chart for _, chart in sorted(charts.values(), key=lambda entry: entry[0])]


def _lines(run: RunData, *, max_points: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every metric with its line; validations count only for metrics that are not logged at steps too."""
    logged, validated = ({name: None for row in rows for name in row} for rows in (run.rows, run.validations))
    metrics = [(name, False) for name in logged] + [(name, True) for name in validated if name not in logged]
    for name, validations in [metric for metric in metrics if metric[0] not in NOT_DRAWN][:MAX_METRICS]:
        x, y = thin(*run.series(name, validations=validations), max_points=max_points)
        if x:
            yield name, {"x": x, "y": y, "validations": validations, "exact": name in EXACT}


def label(name: str) -> str:
    """Gives a metric's name in a legend. Levels count from 1, as everywhere on the page."""
    if match := re.fullmatch(r"level_(?:share|similarity)_(\d+)(?:_(\d+))?", name):
        first, second = int(match[1]) + 1, match[2]
        return f"level {first}" if second is None else f"levels {first} and {int(second) + 1}"
    known = REFERENCES.get(name) or LEGENDS.get(name)
    return known or name.removeprefix("gradient_").removeprefix("cosine_").replace("_", " ").replace("/", ": ")


def _family(name: str) -> tuple[int, Family]:
    """Finds the family of a metric and its position on the page."""
    for order, family in enumerate(FAMILIES):
        if re.fullmatch(family.pattern, name):
            return order, family
    return len(FAMILIES), Family("Other metrics", name[:60], re.escape(name), "")


def thin(x: list[float], y: list[float], *, max_points: int) -> tuple[list[float], list[float]]:
    """Thins a line without losing spikes: keeps both ends, and the lowest and the highest point of every bin.

    Values keep six digits.
    """
    if len(x) > max_points:
        bins = max(1, max_points // 2 - 1)
        selected = {0, len(x) - 1}
        for b in range(bins):
            members = range(b * len(x) // bins, (b + 1) * len(x) // bins)
            selected |= {min(members, key=y.__getitem__), max(members, key=y.__getitem__)}
        x, y = [x[i] for i in sorted(selected)], [y[i] for i in sorted(selected)]
    return x, [float(f"{value:.6g}") for value in y]
