"""The state of a run refuses settings that do not work together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.config import ComputeConfig
from repre.errors import UserError
from repre.training import run_state
from repre.training.loop import train
from tests.training.test_loop import QUIET, config


@pytest.mark.parametrize("compute", [{"compile": "on"}, {"precision": "fp16"}])
def test_sharding_with_compilation_or_float16_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: dict[str, Any]
) -> None:
    monkeypatch.setattr(run_state, "world_size", lambda: 2)
    dtypes = {"fp16": torch.float16, "auto": torch.float32, "fp32": torch.float32}
    monkeypatch.setattr(run_state, "pick_precision", lambda name, device: dtypes[name])
    run = config(tmp_path / "run", compute=ComputeConfig(**compute), runtime=replace(QUIET, shard=True))
    with pytest.raises(UserError, match=r"runtime\.shard works with neither"):
        train(run)
