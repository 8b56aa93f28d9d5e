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
from repre.errors import UserError
from repre.evaluation.metric_units import describe_value
from repre.evaluation.registry import EVALUATIONS, evaluation

ConfigT = TypeVar("ConfigT")
CLASS_METRICS = {"iou": "IoU", "box_ap_by_class": "box AP", "mask_ap_by_class": "mask AP"}
"""Details of results that hold a metric for every class, and their titles."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Generic[ConfigT]):
    """Options of `repre eval NAME`."""

    encoder: tuple[str, ...]
    """A run, a checkpoint (also RUN@NAME), a weights file, a timm name or random:NAME. Of several, such as
    runs/a/checkpoints/epoch-*.pt, the curve is drawn."""
    random: bool = False
    """Evaluate the same model at random init."""
    out: Path | None = None
    """Folder for results; by default evaluations/ in the folder of the encoder."""
    keep_model: bool = True
    """Keep the fitted encoder and head beside the result, for `repre predict` and `repre export`."""
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
        print(f"{name} on {curve.results[0].data}" + (f": {split}" if split else ""))
        print(curve)
        print(f"results are in {curve.results[0].path.parent}" + (f"; curve: {curve.path}" if curve.path else ""))
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
    print(f"{name} of {result.encoder} on {result.data}, {result.seconds:.0f} s")
    if split := describe_split(result.details):
        print(f"  {split}")
    for metric in sorted(result.metrics, key=lambda metric: (metric != result.main, metric)):
        print(f"  {metric:24} {describe_value(metric, result.metrics[metric]):>8}")
    for line in class_table(result.details):
        print(line)
    print(f"written to {result.path}")
    if result.model is not None:
        print(f"predict with it: repre predict --model {shlex.quote(str(result.path))} IMAGES --out FOLDER")
    return 0


def describe_split(details: dict[str, Any]) -> str:
    """The numbers of images, and where the test images come from, such as ``80 images to train on, 20 to test on``."""
    tested = details.get("test_images", details.get("val_images"))
    if tested is None or details.get("train_images") is None:
        return ""
    test_set = details.get("test_set")
    return f"{details['train_images']} images to train on, {tested} to test on" + (f" ({test_set})" if test_set else "")


def class_table(details: dict[str, Any]) -> list[str]:
    """The metrics of every class in percent, a line each; "-" for a class without objects or pixels in the test images."""
    columns = {title: details[name] for name, title in CLASS_METRICS.items() if name in details}
    if not columns:
        return []
    classes = list(next(iter(columns.values())))
    width = max(24, *(len(name) for name in classes))
    lines = [f"  {'class':{width}} " + " ".join(f"{title:>8}" for title in columns)]
    for name in classes:
        values = [column.get(name) for column in columns.values()]
        cells = ["-" if value is None or math.isnan(value) else f"{100 * value:.2f} %" for value in values]
        lines.append(f"  {name:{width}} " + " ".join(f"{cell:>8}" for cell in cells))
    return lines
