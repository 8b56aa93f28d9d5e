"""`repre plan` passes the settings of the run on and prints the plan."""

from pathlib import Path
from typing import Any

import pytest

from repre import api
from repre.config import RunConfig
from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY


def test_a_plan_of_a_tiny_run(repre: Repre, photos: Path) -> None:
    code, out, err = repre("plan", "quickstart", "--data", photos, *TINY, "--seconds", 1)
    assert code == 0, err
    assert "16 images, batch 8, on cpu" in out
    assert "add: --runtime.workers" in out


def test_its_options_reach_the_plan(repre: Repre, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(config: RunConfig, **settings: Any) -> str:
        return f"{config.epochs} epochs of batches of {config.batch_size}, {settings}"

    monkeypatch.setattr(api, "plan", plan)
    code, out, _ = repre("plan", "vit-small-dino", "--epochs", 7, "--max-hours", 12)
    assert code == 0
    assert out == "7 epochs of batches of 1024, {'seconds': 30.0, 'max_hours': 12.0}\n"
