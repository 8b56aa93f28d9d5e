"""Pre-train an encoder, plan a run, and show its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repre.api.arguments import PathLike, as_data, as_list, as_output
from repre.errors import RunError, UserError
from repre.utils.printable_text import say

if TYPE_CHECKING:
    from repre.config import RunConfig
    from repre.evaluation.classification.knn_probe import KNNProbe
    from repre.evaluation.label_probes import LabelProbes
    from repre.models.encoder import Encoder
    from repre.training.monitoring.validator import Probe
    from repre.training.planner import Plan


@dataclass(frozen=True)
class Run:
    """A finished pre-training run."""

    path: Path
    """Folder of the run."""

    @property
    def summary(self) -> dict[str, Any]:
        """Content of summary.json in the folder: final metrics, speed, alarms."""
        return json.loads((self.path / "summary.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Reconstruction:
    """Images and their reconstructions."""

    path: Path
    """PNG with the images in the upper row and their reconstructions in the lower row."""
    psnr: list[float]
    """Peak signal-to-noise ratio of each image in dB."""


def pretrain(
    config: RunConfig | str | None = None,
    *,
    start_from: PathLike | None = None,
    data: PathLike | Sequence[PathLike] | None = None,
    out: PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Run:
    """Pre-trains an encoder, or resumes the unfinished run in `out`.

        run = repre.pretrain("vit-small-moco-v3", data="photos/", out="runs/photos")
        longer = repre.pretrain(start_from="runs/photos", epochs=50, out="runs/photos-150")

    Args:
        config: a config, or the name of a recipe; None: the settings of `start_from`, or else the recipe quickstart.
        start_from: a run, or a checkpoint of one (also RUN@NAME), whose whole state the new run starts with, as with
            ``repre pretrain --from``.
        data, out, epochs, batch_size, seed: replace the values of the config.

    Raises:
        UserError: a mistake in the config or the data, or `out` holds another run.
        RunError: the run cannot continue; its last checkpoint is intact. The report in its folder gives the reason
            and the next command; the error's notes name both.
    """
    from repre.evaluation.classification.knn_probe import KNNProbe
    from repre.evaluation.label_probes import LabelProbes
    from repre.reporting import write_report
    from repre.training.loop import train
    from repre.training.run_folder import RunFolder
    from repre.training.start_weights import with_statistics
    from repre.utils.device import pick_device
    from repre.utils.dist import is_main_process

    config = _run_config(
        config,
        start_from=start_from,
        data=None if data is None else as_data(data),
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    as_output(config.out)
    config = with_statistics(config)
    if config.start_from is None:  # else `train` completes the config first
        pick_device(config.runtime.device)
        RunFolder(config.out).check(config)  # cheap refusals come before labels are opened
    scenes = KNNProbe.for_scenes(config.data_name, config.views) if config.embedded_scenes else None
    labels = LabelProbes(config) if config.probe.metrics else None
    if labels is not None and is_main_process():
        say(labels.describe())
    probes: list[Probe] = [] if scenes is None else [scenes]
    if labels is not None:
        probes.append(_recorded(labels, RunFolder(config.out).probes))
    try:
        path = train(config, probe=_joined(probes))
    except (Exception, KeyboardInterrupt) as error:
        if is_main_process() and not isinstance(error, UserError):
            _report_failure(Path(config.out), error)
        raise
    if is_main_process():
        if scenes is not None:
            _add_baselines(path, scenes)
        write_report(path)
    return Run(path)


def plan(
    config: RunConfig | str = "quickstart",
    *,
    data: PathLike | Sequence[PathLike] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seconds: float = 30.0,
    max_hours: float | None = None,
) -> Plan:
    """Measures on this machine what fits into memory, how fast a run will be and what limits it. Writes no files.

    Args:
        config: a config, or the name of a recipe.
        data, epochs, batch_size: replace the values of the config.
        seconds: approximate duration of the measurement.
        max_hours: time budget; the plan has at most as many epochs as fit.

    Raises:
        UserError: a mistake in the config or the data, nothing fits, or the budget is too short for one epoch.
    """
    from repre.training import planner

    config = _run_config(config, data=None if data is None else as_data(data), epochs=epochs, batch_size=batch_size)
    return planner.plan(config, seconds=seconds, max_hours=max_hours)


def report(runs: PathLike | Sequence[PathLike], *, out: PathLike | None = None) -> Path:
    """Writes the report of a run, or of several runs side by side, as one HTML file that opens offline.

    Args:
        runs: folder of a run, finished or not, or several folders.
        out: HTML file; by default report.html in the run's folder, or in the current folder for several runs.

    Returns:
        The file.

    Raises:
        UserError: a folder holds no run, or the file cannot be written.
    """
    from repre.reporting import write_comparison, write_report

    folders = [Path(run) for run in as_list(runs)]
    if not folders:
        raise UserError("report needs the folder of at least one run")
    if len(folders) == 1:
        return write_report(folders[0], as_output(out) if out else None)
    return write_comparison(folders, as_output(out or "report.html"))


def reconstruct(
    images: PathLike | Sequence[PathLike],
    *,
    run: PathLike,
    out: PathLike = "reconstruction.png",
    checkpoint: PathLike | None = None,
) -> Reconstruction:
    """Rebuilds images from an encoder's features and writes images and reconstructions to a PNG.

    Args:
        images: image files.
        run: folder of a run with the reconstruction branch.
        out: PNG file to write.
        checkpoint: a checkpoint of the run; None uses the last.

    Raises:
        UserError: an image cannot be read, or the folder holds no such run.
    """
    from repre.training import reconstruct_images

    psnr = reconstruct_images.reconstruct(
        tuple(Path(image) for image in as_list(images)),
        run=Path(run),
        out=as_output(out),
        checkpoint=Path(checkpoint) if checkpoint else None,
    )
    return Reconstruction(Path(out), psnr)


def _report_failure(path: Path, error: BaseException) -> None:
    """Writes the report of a run that ended by an error; adds the next command and the report to the error's notes."""
    from repre.reporting import write_report
    from repre.training.failure_record import read_failure

    record = read_failure(path)
    if record is None:
        return
    for step in record.next_steps:
        error.add_note(f"{step.do}:\n  {step.command}")
    try:
        error.add_note(f"report: {write_report(path)}")
    except (OSError, UserError, RunError) as failure:  # such as a full disk, which ended the run
        error.add_note(f"the report could not be written ({failure})")


def _add_baselines(path: Path, probe: KNNProbe) -> None:
    """Adds k-NN before and after training, and of the baselines, to the run's summary."""
    from repre.utils.io import write_json

    summary = Run(path).summary
    if "knn" not in summary:
        before, after = summary["validations"][0]["knn"], summary["validations"][-1]["knn"]
        write_json(path / "summary.json", {"knn": {"before": before, "after": after, **probe.baselines()}} | summary)


def _recorded(labels: LabelProbes, file: Path) -> Probe:
    """The probes on labels, which also write down what they measured on, for the report of an unfinished run too. What an
    earlier part of the run measured on other labels stays."""
    from repre.utils.io import write_json

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        metrics = labels(encoder, step)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if known != (content := known | labels.images()):
            write_json(file, content)
        return metrics

    return probe


def _joined(probes: Sequence[Probe]) -> Probe | None:
    """Several probes as one; None for none."""
    if not probes:
        return None
    return lambda encoder, step: {name: value for probe in probes for name, value in probe(encoder, step).items()}


def _run_config(
    config: RunConfig | str | None, *, start_from: PathLike | None = None, out: PathLike | None = None, **overrides: Any
) -> RunConfig:
    """The config of a run; overrides that are None keep the values of the config, the recipe or the run to start from."""
    from repre.recipes import fit_to_images, recipe
    from repre.training.start_from import continued_config, started_config

    if start_from is None:
        config = config or "quickstart"
    overrides["out"] = out
    changes: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in overrides.items() if value is not None
    }
    spec = None if start_from is None else str(start_from)
    if spec is not None and config is None:
        return replace(continued_config(spec, out=out), **changes)
    assert config is not None

    def started(settings: RunConfig) -> RunConfig:
        return replace(settings if spec is None else started_config(settings, spec), **changes)

    if not isinstance(config, str):
        return started(config)
    changed = started(recipe(config))
    fitted = fit_to_images(config, changed)
    return changed if fitted is None else started(fitted)
