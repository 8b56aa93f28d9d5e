"""The ratio of training times comes from short trainings that alternate."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from experiments.plan import Plan
from experiments.presets import TOY

from experiments import time_ratio
from repre.config import RunConfig


def test_the_ratio_is_the_median_over_alternating_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(time_ratio.STEPS * 2 + 5):
        (images / f"{number:03}.png").touch()
    seconds = iter((3.0, 1.0, 10.0, 2.0, 4.0, 2.0))
    trained: list[tuple[float, int]] = []

    def pretrain(config: RunConfig) -> SimpleNamespace:
        trained.append((config.reconstruction.weight, len(Path(config.data).read_text().splitlines())))
        return SimpleNamespace(summary={"seconds": next(seconds)})

    monkeypatch.setattr(time_ratio, "pretrain", pretrain)
    branch, plain = (
        replace(Plan(TOY).pretrained("moco-v3", "vit", variant).config, batch_size=2) for variant in ("branch", "plain")
    )
    ratio = time_ratio.training_time_ratio(branch, plain, images=images, work=tmp_path / "work")
    assert ratio == 3.0  # the median of 3, 5 and 2
    images_per_training = time_ratio.STEPS * 2
    expected = [(branch.reconstruction.weight, images_per_training), (0.0, images_per_training)]
    assert trained == expected * time_ratio.ROUNDS
    assert not (tmp_path / "work").exists()
