"""Weights that are whole pass through; tests/faults/processes.py trains with weights split over two processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from repre.config import ComputeConfig
from repre.errors import UserError
from repre.training import loop
from repre.training.loop import train
from repre.utils.fsdp import distribute_like, full_tensors, is_dtensor, local_tensor, total_norm
from tests.training.test_loop import QUIET, config


def test_whole_tensors_pass_through() -> None:
    x = torch.randn(3, 2)
    assert not is_dtensor(x)
    assert local_tensor(x) is x
    assert distribute_like(x, torch.zeros(3, 2)) is x
    tree = {"a": [x, 1], "b": {"c": x}}
    assert full_tensors(tree)["a"][0] is x
    assert full_tensors(tree)["b"]["c"] is x
    assert full_tensors(tree)["a"][1] == 1


def test_the_norm_is_that_of_all_values() -> None:
    tensors = [torch.randn(3, 2), torch.randn(5)]
    torch.testing.assert_close(total_norm(tensors), torch.cat([t.flatten() for t in tensors]).norm())
    assert total_norm([]) == 0


def test_clipping_shortens_to_the_limit_and_never_lengthens() -> None:
    layer = nn.Linear(3, 2)
    for limit, expected in ((0.5, 0.5), (1e3, 10.0)):
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        scale = 10 / loop.gradient_norm(layer)
        for parameter in layer.parameters():
            parameter.grad *= scale
        loop.clip_gradients(layer, loop.gradient_norm(layer), limit)
        assert float(loop.gradient_norm(layer)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compute", [{"compile": True}, {"precision": "fp16"}])
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: dict[str, Any]
) -> None:
    monkeypatch.setattr(loop, "world", lambda: 2)
    monkeypatch.setattr(loop, "pick_precision", lambda name, device: torch.float16 if name == "fp16" else torch.float32)
    made = config(tmp_path / "run", compute=ComputeConfig(**compute), runtime=replace(QUIET, shard=True))
    with pytest.raises(UserError, match=r"runtime\.shard goes with neither"):
        train(made)
