"""`repre eval`: measure encoder quality."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from repre import api
from repre.cli.old_options import refuse_old_options
from repre.cli.parsing import parse
from repre.errors import UserError, counted, named
from repre.evaluation.metric_units import describe_value
from repre.evaluation.registry import EVALUATIONS, evaluation
from repre.evaluation.result_groups import tested_images
from repre.utils.printable_text import say

ConfigT = TypeVar("ConfigT")
CLASS_METRICS = {
    "per_class": "accuracy",
    "iou": "IoU",
    "box_ap_by_class": "box AP",
    "mask_ap_by_class": "mask AP",
}
"""Details of results that hold a metric for every class, and their titles."""
MOST_CLASSES, WORST_CLASSES = 25, 15
"""Most classes of which all are printed, and how many of more."""
NAMED = 20
"""Most names of absent classes in a line."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Generic[ConfigT]):
    """Options of `repre eval NAME`."""

    encoder: tuple[str, ...]
    """A run, a checkpoint (also RUN@NAME), a weights file, a timm name or random:NAME. Several, such as
    runs/a/checkpoints/epoch-*.pt, give a curve."""
    random: bool = False
    """Evaluate the same model at random init."""
    out: Path | None = None
    """Folder for results; by default evaluations/ in the folder of the encoder."""
    keep_model: bool = True
    """Save the fitted encoder and head next to the result, for `repre predict` and `repre export`."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel in [0, 1], instead of what the weights expect. Give `std`, too."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every channel, instead of what the weights expect."""
    config: Annotated[ConfigT, tyro.conf.arg(name="")]
    """Settings of the evaluation."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        names = "\n".join(f"  repre eval {name:10} {entry.description}" for name, entry in EVALUATIONS.items())
        if arguments[:1] in (["-h"], ["--help"]):
            print(
                f"Measure encoder quality:\n\n{names}\n\n`repre eval NAME --help` lists the options of an evaluation."
            )
            return 0
        raise UserError(f"eval needs the name of an evaluation:\n{names}")
    name, *rest = arguments
    entry = evaluation(name)
    refuse_old_options(rest)
    options_type: Any = EvalOptions
    description = f"Measure encoder quality: {entry.description}."
    options = parse(options_type[entry.config], rest, command=f"eval {name}", description=description)
    if not options.encoder:
        raise UserError("--encoder needs at least one encoder")
    if len(options.encoder) > 1:
        encoders = [f"random:{spec}" for spec in options.encoder] if options.random else options.encoder
        curve = api.evaluate_checkpoints(
            name, encoders, out=options.out, mean=options.mean, std=options.std, config=options.config
        )
        split = describe_split(curve.results[0].details)
        say(f"{name} on {curve.results[0].data}" + (f": {split}" if split else ""), *str(curve).split("\n"))
        say(f"results are in {curve.results[0].path.parent}" + (f"; curve: {curve.path}" if curve.path else ""))
        return 0
    encoder = options.encoder[0]
    result = api.evaluate(
        name,
        encoder,
        random=options.random,
        out=options.out,
        keep_model=options.keep_model,
        mean=options.mean,
        std=options.std,
        config=options.config,
    )
    say(f"{name} of {result.encoder} on {result.data}, {result.seconds:.0f} s")
    if split := describe_split(result.details):
        say(f"  {split}")
    for metric in sorted(result.metrics, key=lambda metric: (metric != result.main, metric)):
        say(
            f"  {metric:24} {describe_value(metric, result.metrics[metric]):>8}{describe_draws(result.details.get(metric))}"
        )
    say(*class_lines(result.details), f"written to {result.path}")
    if result.model is not None:
        say(f"predict with it: repre predict --model {shlex.quote(str(result.path))} IMAGES --out FOLDER")
    return 0


def describe_draws(detail: Any) -> str:
    """The standard deviation of a metric that is a mean over draws of the labeled images, and their number."""
    draws = detail.get("draws") if isinstance(detail, dict) else None
    if not draws:
        return ""
    spread = f" ± {100 * detail['sd']:.2f}" if detail.get("sd") is not None else ""
    return f"{spread}  (mean of {counted(len(draws), 'draw')})"


def describe_split(details: dict[str, Any]) -> str:
    """The numbers of images, and where the test images come from, such as ``80 images to train on, 20 to test on``."""
    tested = tested_images(details)
    if tested is None or details.get("train_images") is None:
        return ""
    test_set = details.get("test_set")
    return f"{details['train_images']} images to train on, {tested} to test on" + (f" ({test_set})" if test_set else "")


def class_lines(details: dict[str, Any]) -> list[str]:
    """How well every class is recognized: the mean over the classes, what always naming the largest reaches, and a table.

    Of more than MOST_CLASSES classes the table shows the lowest; "-" stands for a class that is not in the test data.
    """
    titles = CLASS_METRICS | ({"per_class": "AP"} if details.get("multilabel") else {})
    columns = {title: details[name] for name, title in titles.items() if name in details}
    if not columns:
        return []
    lines = []
    if "balanced_accuracy" in details:
        majority = details["majority_class"]
        lines += [
            f"  {'balanced accuracy':24} {100 * details['balanced_accuracy']:>6.2f} %  (mean over the classes)",
            f"  {'majority class':24} {100 * majority['share']:>6.2f} %  (accuracy of always predicting {majority['name']})",
        ]
    first = next(iter(columns.values()))
    absent = [name for name, value in first.items() if _is_absent(value)]
    present = [name for name in first if name not in absent]
    heading = "class"
    shown = list(first)
    if len(first) > MOST_CLASSES:
        shown = sorted(present, key=lambda name: first[name])[:WORST_CLASSES]
        heading = f"lowest {len(shown)} of {len(first)} classes"
    width = max(24, len(heading), *(len(name) for name in shown))
    lines.append(f"  {heading:{width}} " + " ".join(f"{title:>8}" for title in columns))
    for name in shown:
        values = [column.get(name) for column in columns.values()]
        cells = ["-" if _is_absent(value) else f"{100 * value:.2f} %" for value in values]
        lines.append(f"  {name:{width}} " + " ".join(f"{cell:>8}" for cell in cells))
    if absent:
        lines.append(f"  not in the test data, so not in the mean: {named(absent, most=NAMED)}")
    return lines


def _is_absent(value: float | None) -> bool:
    return value is None or math.isnan(value)
