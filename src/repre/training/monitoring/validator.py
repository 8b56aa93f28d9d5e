"""What happens at a check: a look by the monitors, the caller's probe, alarms, pictures, and the best encoder.

Lives on the main process only, and only validations: whatever is set here, the weights come out the same.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from repre.config import RunConfig
from repre.data.io.sources import Source
from repre.errors import UserError, near_names
from repre.models.encoder import Encoder
from repre.models.repre import RePre
from repre.training.checkpoint import save_checkpoint
from repre.training.monitoring.alarms import Health, Scope
from repre.training.monitoring.label_free import (
    LOWER_IS_BETTER,
    MOTION,
    Monitors,
    embed,
    evaluating,
    fixed_sample,
    label_free,
)
from repre.training.monitoring.reconstructions import PANEL_IMAGES, rebuild, save_panel
from repre.training.monitoring.snapshots import save_snapshots
from repre.training.run_folder import RunFolder

Probe = Callable[[Encoder, int], dict[str, float]]
"""A further look at the encoder (a k-NN, say) that the command line passes in: (encoder, step) -> figures."""

SHOWN = ("rankme", "embedding_std", "alignment", "correspondence", "psnr", "gradient_ratio")
"""Figures of a look that are printed, beside the probe's."""
SHARE = 0.05
"""Images of the sample, as a share of those shown between two checks: a look must stay cheap beside the training."""
LEAST_IMAGES = 64
RARELY = 100
"""Pictures are written again when training went on for this many times as long as writing them took."""


class Validator:
    """Takes looks at the checks of a run and follows its figures.

    Args:
        probe: see `Probe`.
        say: prints a line.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        source: Source,
        device: torch.device,
        *,
        probe: Probe | None,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.probe, self.say = probe, say
        between = len(source) * config.runtime.eval_every_epochs
        count = min(config.runtime.monitor_samples, max(LEAST_IMAGES, int(SHARE * between)))
        sample = fixed_sample(source, count=count, canvas=config.decode_size, views=config.views)
        self.images = sample.images
        self.monitors = (
            Monitors(sample, views=config.views, seed=config.seed, device=device) if config.runtime.monitors else None
        )
        self.health = Health()
        self.validations: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.probe_seconds = 0.0
        self.pictured, self.picture_seconds = -math.inf, 0.0

    def restore(self, validations: list[dict[str, Any]], best: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Goes on where a stopped run was: with its validations, its best, and the alarms that its figures raised."""
        self.validations = validations
        if validations:
            self._check_metric({name for look in validations for name in look})
        metric = self.config.runtime.best_metric
        self.best = best if best.get("metric") == metric else {}
        self.health.replay(rows, validations)
        self.folder.write_alarms(self.health.as_dicts())

    def check(self, model: RePre, *, step: int, total: int) -> dict[str, Any]:
        """Takes a look; gives its figures."""
        begun = time.monotonic()
        encoder = model.export_encoder
        figures: dict[str, Any] = {"step": step}
        with evaluating(model, self.device):
            if self.monitors is not None:
                figures |= self.monitors.measure(model, progress=step / total)
            else:
                found = label_free(embed(encoder, self.images, device=self.device))
                figures |= {name: value if math.isfinite(value) else None for name, value in found.items()}
            self._pictures(model, step=step, last=step == total)
        figures["validation_seconds"] = time.monotonic() - begun
        shown = {name: figures[name] for name in SHOWN if figures.get(name) is not None}
        if self.probe is not None:
            probed = self._probe(encoder, step=step, always=not self.validations or step == total)
            figures, shown = figures | probed, shown | {k: v for k, v in probed.items() if k != "probe_seconds"}
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        if not self.validations:
            self._check_metric(set(figures))
        self.validations.append(figures)
        self.observe("validation", figures)
        if step:
            self._keep_best(encoder, figures)
        return figures

    def observe(self, scope: Scope, figures: Mapping[str, Any]) -> None:
        """Says, and writes down, what is out of order in the figures of a look or a logged step."""
        new = self.health.observe(scope, figures) if self.config.runtime.monitors else []
        for alarm in new:
            self.say(str(alarm))
        if new:
            self.folder.write_alarms(self.health.as_dicts())

    def _probe(self, encoder: Encoder, *, step: int, always: bool) -> dict[str, float]:
        """The caller's look; between the first and the last check only while it stays within its time."""
        assert self.probe is not None, "there is a probe"
        limit = self.config.runtime.probe_seconds
        if self.probe_seconds > limit and not always:
            self.say(
                f"step {step}: the probe is left out until the last check, since it took {self.probe_seconds:.0f} s, more "
                f"than runtime.probe_seconds = {limit:g}"
            )
            return {}
        begun = time.monotonic()
        figures = self.probe(encoder, step)
        self.probe_seconds = time.monotonic() - begun
        return {**figures, "probe_seconds": self.probe_seconds}

    def _pictures(self, model: RePre, *, step: int, last: bool) -> None:
        begun = time.monotonic()
        views = self.config.views
        if model.decoder is not None:
            shown = rebuild(model, self.images[:PANEL_IMAGES], views=views, device=self.device)
            save_panel(*shown, self.folder.panel / f"step-{step:07d}.png")
        if last or begun - self.pictured > RARELY * self.picture_seconds:
            save_snapshots(model, self.images, self.folder.snapshots / "features.npz", views=views, device=self.device)
            self.pictured = time.monotonic()
            self.picture_seconds = self.pictured - begun

    def _keep_best(self, encoder: Encoder, figures: dict[str, Any]) -> None:
        metric = self.config.runtime.best_metric
        value, best = figures.get(metric), self.best.get(metric)
        if value is None or not math.isfinite(value):
            return
        if best is None or (value < best if metric in LOWER_IS_BETTER else value > best):
            self.best = {"metric": metric, **figures}
            save_checkpoint(self.folder.best, {"step": figures["step"], "encoder": encoder.state_dict()})

    def _check_metric(self, names: set[str]) -> None:
        metric, known = self.config.runtime.best_metric, names | MOTION
        if metric not in known:
            there = ", ".join(sorted(known - {"step", "validation_seconds", "probe_seconds"}))
            raise UserError(f"runtime.best_metric: no figure {metric!r}{near_names(metric, known)}; there are: {there}")
