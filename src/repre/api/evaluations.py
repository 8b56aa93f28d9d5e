"""Measure encoder quality: one evaluation of one encoder, or the same evaluations of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repre.api.arguments import PathLike, as_list, as_output, build_config, led_by_rank_0

if TYPE_CHECKING:
    from repre.evaluation.comparison import Row
    from repre.evaluation.curve import Point
    from repre.models.resolve import ResolvedEncoder


@dataclass(frozen=True)
class EvaluationResult:
    """The result of one evaluation of one encoder."""

    path: Path
    """JSON file with the result, the config and the hash of the encoder's weights."""
    evaluation: str
    """Name of the evaluation, such as "knn"."""
    encoder: str
    """Name of the encoder, as `evaluate` accepts it."""
    data: str
    """Labeled data that the encoder was evaluated on."""
    metrics: dict[str, float]
    """Metrics by name. Accuracy, IoU and average precision lie in [0, 1]."""
    main: str
    """Name of the metric to compare encoders by."""
    higher_is_better: bool
    """Whether a higher main metric is better."""
    details: dict[str, Any]
    """Metrics per class, image counts and selected hyperparameters."""
    seconds: float
    """Duration of the evaluation."""
    model: Path | None = None
    """Folder of the fitted model, for `load_model`; None if nothing was fitted or saved."""
    weights: str = ""
    """Identity of the evaluated weights: the SHA-256 of their file, `hub` or `random`."""


@dataclass(frozen=True)
class Curve:
    """Several checkpoints of a run, evaluated in the same way."""

    path: Path | None
    """SVG file with the main metric against the epoch; None if no encoder belongs to a run."""
    results: list[EvaluationResult]
    """One result per encoder, in the order given."""
    epochs: list[float | None]
    """Epochs that the run of each encoder had done; None for an encoder that belongs to no run."""

    def __str__(self) -> str:
        """A table of epochs and main metrics."""
        from repre.evaluation.curve import table

        return "\n".join(table(self._points(), metric=self.results[0].main))

    def _points(self) -> list[Point]:
        from repre.evaluation.curve import Point

        pairs = zip(self.results, self.epochs, strict=True)
        return [
            Point(
                result.encoder,
                epoch,
                result.metrics[result.main],
                run=_run_of(result.encoder),
                weights=result.weights,
                size=result.details.get("size"),
            )
            for result, epoch in pairs
        ]


def _run_of(spec: str) -> str:
    """The run of a checkpoint as the user named it."""
    from repre.training.checkpoint import checkpoint_file

    path = checkpoint_file(spec)
    return str(path.parent.parent if path.parent.name == "checkpoints" else path)


@dataclass(frozen=True)
class Comparison:
    """Several encoders, evaluated in the same way."""

    path: Path
    """Folder with compare.md, compare.csv and compare.json."""
    rows: list[Row]
    """One row per evaluation, metric and encoder."""
    seeds: int
    """Number of seeds."""
    report: Path | None
    """HTML page with the runs side by side; None if fewer than two encoders are runs."""
    notes: list[str] = field(default_factory=list)
    """Notes on the rows: encoders with the same weights, seeds that change nothing, numbers of test images."""

    def to_markdown(self) -> str:
        """Returns the table: mean and standard deviation in percent, gains in points with their 95 % interval."""
        from repre.evaluation.comparison_tables import markdown

        return markdown(self.rows, seeds=self.seeds, notes=self.notes)


@led_by_rank_0
def evaluate(
    evaluation: str,
    encoder: PathLike,
    *,
    data: PathLike | None = None,
    random: bool = False,
    out: PathLike | None = None,
    keep_model: bool = True,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    config: Any = None,
    **settings: Any,
) -> EvaluationResult:
    """Measures encoder quality on labeled data and writes the result as JSON.

        repre.evaluate("knn", "runs/photos", data="labeled/", k=(10, 20))

    Args:
        evaluation: "knn", "linear", "finetune", "segment", "patch-knn", "depth" or "detect".
        encoder: a run, a checkpoint, a weights file, a timm name or random:NAME (see `repre.models.resolve`).
        data: labeled data; the config of the evaluation lists the formats.
        random: evaluate the same model at random init.
        out: folder for results; by default evaluations/ in the folder of the encoder.
        keep_model: save the fitted encoder and head next to the result, for `load_model`, `predict` and `export`.
        mean, std: of every channel, instead of what the weights expect; both or neither.
        config: config of the evaluation, such as `KNNConfig`; None uses the defaults.
        settings: fields of the config to replace.

    Raises:
        UserError: an unknown evaluation, encoder or setting (the message suggests near names), or a wrong value.
        RunError: the evaluation cannot continue, or a signal stopped it; call it again to resume.
    """
    from repre.models.resolve import resolve_encoder

    if data is not None:
        settings["data"] = str(data)
    evaluation_config = _evaluation_config(evaluation, config, settings)
    spec = f"random:{str(encoder).removeprefix('random:')}" if random else str(encoder)
    resolved = resolve_encoder(spec).normalized(mean, std)
    return _evaluate(evaluation, resolved, evaluation_config, out=out, keep_model=keep_model)


@led_by_rank_0
def evaluate_checkpoints(
    evaluation: str,
    encoders: Sequence[PathLike],
    *,
    data: PathLike | None = None,
    out: PathLike | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    config: Any = None,
    **settings: Any,
) -> Curve:
    """Measures the quality of several encoders, such as the checkpoints of a run, and draws the curve.

        repre.evaluate_checkpoints("knn", ["runs/photos@epoch-0010", "runs/photos@last"], data="labeled/")

    Stored results of the same weights and settings are reused, so an interrupted call resumes. No fitted model is
    saved.

    Args:
        encoders: what `evaluate` accepts, at least one.
        evaluation, data, out, mean, std, config, settings: as in `evaluate`.

    Raises:
        UserError, RunError: as `evaluate`.
    """
    from repre.errors import UserError
    from repre.evaluation import registry
    from repre.evaluation.curve import write_curve
    from repre.models.resolve import resolve_encoder
    from repre.utils.io import json_hash

    if not encoders:
        raise UserError("name at least one encoder")
    if data is not None:
        settings["data"] = str(data)
    evaluation_config = _evaluation_config(evaluation, config, settings)
    found = [resolve_encoder(str(encoder)).normalized(mean, std) for encoder in encoders]
    if (check := registry.evaluation(evaluation).check) is not None:
        for resolved in found:  # a mistake in the last one is found before the first is evaluated
            check(resolved, evaluation_config)
    results = [
        _evaluate(evaluation, resolved, evaluation_config, out=out, reuse=True, keep_model=False) for resolved in found
    ]
    curve = Curve(None, results, [resolved.epoch for resolved in found])
    if all(epoch is None for epoch in curve.epochs):
        return curve
    first = curve.results[0]
    stems = json_hash([result.path.stem for result in curve.results], length=12)
    path = first.path.with_name(f"{evaluation}-curve-{stems}.svg")
    write_curve(path, curve._points(), title=f"{evaluation} on {first.data}", metric=first.main)
    return replace(curve, path=path)


def _evaluate(
    evaluation: str,
    resolved: ResolvedEncoder,
    config: Any,
    *,
    out: PathLike | None,
    keep_model: bool,
    reuse: bool = False,
) -> EvaluationResult:
    from repre.evaluation import runner

    folder = as_output(out) if out else None
    result = runner.evaluate(evaluation, resolved, config, out=folder, reuse=reuse, keep_model=keep_model)
    model = Path(result["path"]).with_suffix("") / "model"
    return EvaluationResult(
        path=Path(result["path"]),
        evaluation=evaluation,
        encoder=resolved.spec,
        data=config.data,
        metrics=result["metrics"],
        main=result["main"],
        higher_is_better=result["higher_is_better"],
        details=result["details"],
        seconds=result["seconds"],
        model=model if keep_model and model.is_dir() else None,
        weights=result["encoder"]["weights"],
    )


@led_by_rank_0
def compare(
    encoders: PathLike | Sequence[PathLike],
    evaluations: str | Sequence[str] | Mapping[str, Any] = "knn",
    *,
    data: PathLike | None = None,
    seeds: int = 3,
    out: PathLike = "comparison",
    supervised: PathLike | None = None,
) -> Comparison:
    """Evaluates several encoders in the same way and computes their gain over random init.

        repre.compare(["runs/a", "runs/b"], ["knn", "segment"], data="labeled/")
        repre.compare("runs/a", {"knn": {"k": (20,)}, "linear": LinearConfig(steps=1000)})

    Args:
        encoders: what `evaluate` accepts. Without a random:NAME among them, the first model at random init is added.
        evaluations: names of evaluations, or a dictionary from names to configs (or to dictionaries of their fields).
        data: labeled data of all evaluations; None uses the data of each config.
        seeds: number of seeds; each evaluation runs with seeds 0, 1, ..., seeds - 1.
        out: folder for the tables and, if two or more encoders are runs, report.html.
        supervised: one of `encoders`; the gain over it is computed as well.

    Raises:
        UserError: a mistake in an encoder or a setting; all are checked before the first evaluation.
    """
    from repre.evaluation import comparison
    from repre.evaluation.comparison_tables import write_tables
    from repre.reporting import write_comparison

    if isinstance(evaluations, str):
        evaluations = [evaluations]
    given = evaluations if isinstance(evaluations, Mapping) else dict.fromkeys(evaluations)
    settings = {} if data is None else {"data": str(data)}
    configs = {name: _evaluation_config(name, config, settings) for name, config in given.items()}
    names = [str(encoder) for encoder in as_list(encoders)]
    found = comparison.compare(
        names, configs, seeds=seeds, out=as_output(out), supervised=None if supervised is None else str(supervised)
    )
    write_tables(found, Path(out), seeds=seeds)
    runs = [Path(name) for name in names if (Path(name) / "config.yaml").is_file()]
    page = write_comparison(runs, Path(out) / "report.html") if len(runs) > 1 else None
    return Comparison(Path(out), found.rows, seeds, page, found.notes)


def _evaluation_config(name: str, config: Any, settings: dict[str, Any]) -> Any:
    from repre.evaluation.registry import evaluation

    return build_config(evaluation(name).config, config, settings, source=f"evaluation {name}")
