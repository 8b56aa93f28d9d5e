"""A validation: metrics of the monitors and the caller's probe, alarms, pictures, and the best encoder.

Runs on the main process only and changes nothing: with any of these settings the weights come out the same.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from repre.config import RunConfig
from repre.config_values import to_dict
from repre.data.io.sources import Source
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import RunError, UserError, near_names
from repre.models.encoder import Encoder
from repre.models.needs import framework_needs
from repre.models.repre import RePre
from repre.training.checkpoint import save_checkpoint
from repre.training.kept_checkpoints import best_steps, remove_surpassed, save_kept_best
from repre.training.monitoring.alarm_rules import Scope, rules_for
from repre.training.monitoring.alarms import AlarmMonitor
from repre.training.monitoring.embedding_metrics import embedding_metrics
from repre.training.monitoring.label_free import Monitors, embed, fixed_sample, isolated_evaluation
from repre.training.monitoring.limits import LOWER_IS_BETTER, MOTION_METRICS
from repre.training.monitoring.reconstructions import PANEL_IMAGES, rebuild, save_panel
from repre.training.monitoring.snapshots import save_snapshots
from repre.training.run_folder import RunFolder
from repre.utils.signals import StopNow

Probe = Callable[[Encoder, int], dict[str, float]]
"""A further measurement of the encoder, such as k-NN on labels: (encoder, step) -> metrics. It sees the encoder in
evaluation mode, without gradients, and may raise UserError or RunError."""

SHOWN = ("rankme", "embedding_std", "alignment", "correspondence", "psnr", "gradient_ratio")
"""Metrics that a validation prints, beside the probe's."""
NO_EFFECT = ("every_epochs", "accept_labels", "masks")
"""Settings of probes that change no value; the fields of `masks` are compared one by one."""
SAMPLE_SHARE = 0.05
"""Size of the sample, as a share of the images trained on between two validations: a validation must stay cheap."""
MIN_SAMPLE = 64
PICTURE_RATIO = 100
"""Minimum ratio of training time to the time that writing snapshots took."""


class Validator:
    """Validates a run and follows its metrics.

    Args:
        views: of the run, with masks that fit the encoder.
        probe: see `Probe`.
        log: prints a line.

    Attributes:
        validations: the metrics of every validation so far, with its step.
        best: the validation with the best `runtime.best_metric`, and the metric's name.
    """

    def __init__(
        self,
        config: RunConfig,
        views: ViewsConfig,
        folder: RunFolder,
        source: Source,
        device: torch.device,
        *,
        probe: Probe | None,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.views, self.folder, self.device = config, views, folder, device
        self.probe, self.log = probe, log
        self.steps_per_epoch = len(source) // config.batch_size
        images_between = len(source) * config.runtime.eval_every_epochs
        count = min(config.runtime.monitor_samples, max(MIN_SAMPLE, int(SAMPLE_SHARE * images_between)))
        sample = fixed_sample(source, count=count, views=views)
        self.images = sample.images
        self.monitors = (
            Monitors(sample, views=views, seed=config.seed, device=device) if config.runtime.monitors else None
        )
        steps = config.epochs * (len(source) // config.batch_size)
        self.alarms = AlarmMonitor(rules_for(contrast=not framework_needs(config.framework).branch), steps=steps)
        self.validations: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.probe_seconds = 0.0
        self.snapshot_time, self.snapshot_seconds = -math.inf, 0.0

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"best": self.best, "validations": self.validations}

    def restore(self, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Continues a stopped run: with what `state` returned, and the alarms that its metrics raised.

        Args:
            state: also has the `config` that it was saved with. A value that was measured on other labels is not the best.
            rows: the metrics that were logged up to the checkpoint.
        """
        self.validations = state["validations"]
        if self.validations:
            self._check_best_metric({name for validation in self.validations for name in validation})
        metric = self.config.runtime.best_metric
        same = not metric.startswith("probe/") or _labels(state["config"].get("probe")) == _labels(
            to_dict(self.config.probe)
        )
        self.best = state["best"] if same and state["best"].get("metric") == metric else {}
        self.alarms.replay(rows, self.validations)
        self.folder.write_alarms(self.alarms.as_dicts())
        self.remove_surpassed()

    def is_missing(self, step: int) -> bool:
        """Whether the validation of this step was not done, or was interrupted."""
        return not self.validations or self.validations[-1]["step"] != step

    def validate(self, model: RePre, *, step: int, total: int) -> dict[str, Any]:
        """Measures the model; returns the metrics of this validation. An interrupted one leaves no trace.

        Raises:
            StopNow: a signal interrupted it.
        """
        count, best = len(self.validations), self.best
        try:
            return self._validate(model, step=step, total=total)
        except StopNow:
            del self.validations[count:]
            self.best = best
            raise

    def _validate(self, model: RePre, *, step: int, total: int) -> dict[str, Any]:
        begin = time.monotonic()
        encoder = model.export_encoder
        metrics: dict[str, Any] = {"step": step}
        with isolated_evaluation(model, self.device):
            if self.monitors is not None:
                metrics |= self.monitors.measure(model, progress=self.config.progress_at(step, total=total))
            else:
                measured = embedding_metrics(embed(encoder, self.images, device=self.device))
                metrics |= {name: value if math.isfinite(value) else None for name, value in measured.items()}
            self._write_pictures(model, step=step, last=step == total)
        metrics["validation_seconds"] = time.monotonic() - begin
        shown = {name: metrics[name] for name in SHOWN if metrics.get(name) is not None}
        if self.probe is not None:
            with isolated_evaluation(model, self.device):
                probed = self._run_probe(self.probe, encoder, step=step, last=step == total)
            metrics |= probed
            shown |= {name: value for name, value in probed.items() if name != "probe_seconds"}
        self.log(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        if not self.validations:
            self._check_best_metric(set(metrics))
        self.validations.append(metrics)
        self.observe("validation", metrics)
        if step:
            self._save_if_best(encoder, metrics, epoch=self.config.epochs * step / total)
        return metrics

    def observe(self, scope: Scope, metrics: Mapping[str, Any]) -> None:
        """Raises the alarms that the metrics of a validation or a logged step give cause for."""
        new = self.alarms.observe(scope, metrics) if self.config.runtime.monitors else []
        for alarm in new:
            self.log(str(alarm))
        if new:
            self.folder.write_alarms(self.alarms.as_dicts())

    def _run_probe(self, probe: Probe, encoder: Encoder, *, step: int, last: bool) -> dict[str, float]:
        """The probe's metrics; between the first and the last validation only where it is due and keeps its time limit.

        Only the first probe may end the run, because its labels are wrong; later ones are left out with a note.
        """
        limit, every = self.config.runtime.probe_seconds, self.config.probe.every_epochs
        always = not self.validations or last
        if every is not None and step % (every * self.steps_per_epoch) and not always:
            return {}
        if self.probe_seconds > limit and not always:
            self.log(
                f"step {step}: the probe is skipped until the last validation, because it took {self.probe_seconds:.0f} s, "
                f"more than runtime.probe_seconds = {limit:g}"
            )
            return {}
        begin = time.monotonic()
        try:
            metrics = probe(encoder, step)
        except (UserError, RunError) as error:
            if not self.validations:
                raise
            self.log(f"step {step}: the probe failed and is left out: {error}")
            metrics = {}
        self.probe_seconds = time.monotonic() - begin
        return {**metrics, "probe_seconds": self.probe_seconds}

    def _write_pictures(self, model: RePre, *, step: int, last: bool) -> None:
        begin = time.monotonic()
        views = self.views
        if model.decoder is not None:
            pictures = rebuild(model, self.images[:PANEL_IMAGES], views=views, device=self.device)
            save_panel(*pictures, self.folder.panel / f"step-{step:07d}.png")
        if last or begin - self.snapshot_time > PICTURE_RATIO * self.snapshot_seconds:
            save_snapshots(model, self.images, self.folder.snapshots / "features.npz", views=views, device=self.device)
            self.snapshot_time = time.monotonic()
            self.snapshot_seconds = self.snapshot_time - begin

    def _save_if_best(self, encoder: Encoder, metrics: dict[str, Any], *, epoch: float) -> None:
        metric, keep = self.config.runtime.best_metric, self.config.runtime.keep_best
        value, best = metrics.get(metric), self.best.get(metric)
        if value is None or not math.isfinite(value):
            return
        content = {"step": metrics["step"], "epoch": epoch, "encoder": encoder.state_dict()}
        if best is None or (value < best if metric in LOWER_IS_BETTER else value > best):
            self.best = {"metric": metric, **metrics}
            save_checkpoint(self.folder.best, content)
        save_kept_best(self.folder, content, best_steps(self.validations, metric, count=keep), keep=keep)

    def remove_surpassed(self) -> None:
        """Removes encoders that are not among the best any more; call it after a checkpoint was saved."""
        metric, keep = self.config.runtime.best_metric, self.config.runtime.keep_best
        remove_surpassed(self.folder, best_steps(self.validations, metric, count=keep if keep > 1 else 0))

    def _check_best_metric(self, names: set[str]) -> None:
        metric, known = self.config.runtime.best_metric, names | MOTION_METRICS | set(self.config.probe.metrics)
        if metric not in known:
            available = ", ".join(sorted(known - {"step", "validation_seconds", "probe_seconds"}))
            near = f"; did you mean 'probe/{metric}'?" if f"probe/{metric}" in known else near_names(metric, known)
            raise UserError(f"runtime.best_metric: no metric {metric!r}{near}; available: {available}")


def _labels(probe: dict[str, Any] | None) -> dict[str, Any]:
    """The settings of probes that change their values."""
    probe = probe or {}
    masks = probe.get("masks") or {}
    return {name: value for name, value in {**probe, **masks}.items() if name not in NO_EFFECT}
