"""Steps that are not finite: stopped or skipped by policy, with the layer and the files named and good weights kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repre.config import ComputeConfig, RunConfig
from repre.data.views.render import make_views
from repre.errors import RunError
from repre.training import failures, loop
from repre.training.checkpoint import load_checkpoint
from repre.training.loop import train
from repre.training.optim import OptimConfig
from repre.types import Batch, Views
from tests.training.toy import toy


def photos(folder: Path, count: int = 16) -> Path:
    folder.mkdir()
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 255, (36, 36, 3)).astype(np.uint8)
        np.save(folder / f"{i:02d}.npy", values)
    return folder


def small(tmp_path: Path, not_finite: str = "stop", **changes: Any) -> RunConfig:
    config = toy(tmp_path / "run", data=str(photos(tmp_path / "photos")), epochs=2, batch_size=4, **changes)
    quiet = replace(config.runtime, monitors=False, monitor_samples=8, not_finite=not_finite)  # type: ignore[arg-type]
    return replace(config, runtime=quiet)


def poisoned(at: set[int], spoil: Callable[[Views], None]) -> Callable[..., Views]:
    """make_views, whose views are spoilt in these steps, counted from 1."""
    step = 0

    def made(batch: Batch, *words: Any, **more: Any) -> Views:
        nonlocal step
        step += 1
        views = make_views(batch, *words, **more)
        if step in at:
            spoil(views)
        return views

    return made


def second_image(views: Views) -> None:
    views.images[0][1, 0, 3, 3] = float("nan")


def test_stop_names_the_file_and_keeps_the_last_good_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path)
    monkeypatch.setattr(loop, "make_views", poisoned({6}, second_image))
    with pytest.raises(
        RunError, match=r"step 6 is not finite: .*pixels of a view.*last good weights.*lower --optim.lr"
    ):
        train(config)
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())
    (row,) = [json.loads(line) for line in (tmp_path / "run/not_finite.jsonl").read_text().splitlines()]
    assert row["step"] == 6
    assert len(row["files"]) == 4
    assert row["at_fault"] == [row["files"][1]]
    monkeypatch.setattr(loop, "make_views", make_views)
    train(config)
    assert (tmp_path / "run/summary.json").is_file()


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_skip_passes_over_the_step_and_only_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    config = small(tmp_path, "skip", compute=ComputeConfig(micro_batch=micro_batch))
    seen: dict[int, dict[str, Tensor]] = {}

    def keep(run: Any, batch: Batch) -> None:
        model = run_of["run"].model
        seen[run_of["run"].step] = {k: v.clone() for k, v in model.state_dict().items()}

    run_of: dict[str, Any] = {}
    build = loop._Run.__init__

    def noted(self: Any, *words: Any) -> None:
        run_of["run"] = self
        build(self, *words)

    monkeypatch.setattr(loop._Run, "__init__", noted)
    monkeypatch.setattr(failures.FailureTracker, "note_files", keep)
    monkeypatch.setattr(loop, "make_views", poisoned({3, 4}, second_image))
    train(config)
    for name, value in seen[2].items():
        assert torch.equal(value, seen[4][name]), name
    assert any(not torch.equal(value, seen[5][name]) for name, value in seen[4].items())
    rows = [json.loads(line) for line in (tmp_path / "run/not_finite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 4]
    assert json.loads((tmp_path / "run/summary.json").read_text())["skipped"] == 2


def test_too_many_in_a_row_end_the_run_though_they_may_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "NOT_FINITE_IN_A_ROW", 2)
    monkeypatch.setattr(loop, "make_views", poisoned({2, 3, 4}, second_image))
    with pytest.raises(RunError, match="3 such steps in a row"):
        train(small(tmp_path, "skip"))


def test_an_infinite_layer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge but finite pixel overflows in the first layers: the file and the layer are both named."""

    def huge(views: Views) -> None:
        for view in views.images:
            view[2] = 3e38

    monkeypatch.setattr(loop, "make_views", poisoned({2}, huge))
    with pytest.raises(RunError, match=r"the output of encoder\.model\.patch_embed\.proj is the first"):
        train(small(tmp_path))
    (row,) = [json.loads(line) for line in (tmp_path / "run/not_finite.jsonl").read_text().splitlines()]
    assert row["at_fault"] == [row["files"][2]]


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where every loss and gradient was finite."""
    step, count = torch.optim.AdamW.step, 0

    def broken(self: Any, *words: Any, **more: Any) -> None:
        nonlocal count
        step(self, *words, **more)
        if (count := count + 1) == 8:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(
        RunError, match=r"after step 8 the parameter .* is not finite and is not saved; .*last good weights"
    ):
        train(small(tmp_path))
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_rate_that_diverges_ends_with_words_on_how_to_go_on(tmp_path: Path, policy: str) -> None:
    config = small(tmp_path, policy, optim=OptimConfig(lr=1e30, base_batch_size=4, warmup_fraction=0.0))
    with pytest.raises(RunError, match=r"not finite(?s:.)*start again with another --out and a lower"):
        train(replace(config, epochs=8))
