"""A run small enough for tests in which both losses learn something: healthy by every monitor."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import ViewsConfig, dino_views
from repre.models.decoder import DecoderConfig
from repre.models.repre import ReconstructionConfig
from repre.training.loop import train
from repre.training.monitoring.validator import Probe
from repre.training.optim import OptimConfig
from tests import tiny

STEPS_PER_EPOCH = 6
VIEW = ViewConfig(scale=(0.6, 1.0), jitter=1.0, saturation=0.8, hue=0.5, grayscale=0.4)


def toy(out: Path, framework: str = "simclr", **changes: Any) -> RunConfig:
    """Four epochs of 192 scenes of 32 pixels in batches of 32."""
    model_args = {"embed_dim": 48, "depth": 3, "num_heads": 3, "global_pool": "avg"}
    made = RunConfig(
        data="scenes:192:32",
        out=str(out),
        epochs=4,
        batch_size=32,
        encoder=replace(tiny.ENCODERS["vit"], model_args=model_args),
        framework=tiny.FRAMEWORKS[framework],
        decoder=DecoderConfig(dim=64),
        # what is broken on purpose is measured out for this weight
        reconstruction=ReconstructionConfig(weight=1.0, masked_pixels="all"),
        views=replace(
            dino_views(32, 16, 1) if framework == "dino" else ViewsConfig(size=32, first=VIEW, second=VIEW),
            target="view",
            mask=tiny.mask_config(framework),
        ),
        optim=OptimConfig(lr=4e-3, base_batch_size=32, warmup_fraction=0.1, clip_grad_norm=3.0),
        runtime=RuntimeConfig(device="cpu", workers=0, log_every=1, eval_every_epochs=1, monitor_samples=64),
    )
    return replace(made, **changes)


def run(config: RunConfig, *, probe: Probe | None = None) -> dict[str, Any]:
    """The summary of the run, trained."""
    train(config, probe=probe)
    return json.loads((Path(config.out) / "summary.json").read_text())
