"""Steps that are not finite: stopped or skipped by policy, with the layer and the files named and good weights kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from repre.config import ComputeConfig, RunConfig
from repre.data.io.sources import open_source
from repre.data.loading.loader import LoaderConfig
from repre.data.views.render import make_views
from repre.errors import RunError
from repre.models.encoder import Encoder
from repre.training import failures, loop
from repre.training.checkpoint import load_checkpoint
from repre.training.failures import FailureTracker
from repre.training.loop import train
from repre.training.optim import OptimConfig
from repre.training.run_folder import RunFolder
from repre.training.step import StepResult, train_step
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

    def make_spoilt_views(batch: Batch, *args: Any, **settings: Any) -> Views:
        nonlocal step
        step += 1
        views = make_views(batch, *args, **settings)
        if step in at:
            spoil(views)
        return views

    return make_spoilt_views


def second_image(views: Views) -> None:
    views.images[0][1, 0, 3, 3] = float("nan")


def test_stop_names_the_file_and_keeps_the_last_good_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path)
    monkeypatch.setattr(loop, "make_views", poisoned({6}, second_image))
    with pytest.raises(RunError, match=r"step 6 is not finite: .*pixels of a view.*last good weights.*not-finite skip"):
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
    """The steps of the first epoch are at fault: its weights are the initial ones, and the second epoch trains them."""
    seen: dict[int, dict[str, Tensor]] = {}

    def copy_weights(encoder: Encoder, step: int) -> dict[str, float]:
        seen[step] = {name: value.clone() for name, value in encoder.state_dict().items()}
        return {}

    monkeypatch.setattr(loop, "make_views", poisoned({1, 2, 3, 4}, second_image))
    train(small(tmp_path, "skip", compute=ComputeConfig(micro_batch=micro_batch)), probe=copy_weights)
    assert list(seen) == [0, 4, 8]
    for name, value in seen[0].items():
        assert torch.equal(value, seen[4][name]), name
    assert any(not torch.equal(value, seen[8][name]) for name, value in seen[4].items())
    rows = [json.loads(line) for line in (tmp_path / "run/not_finite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run/summary.json").read_text())["skipped"] == 4


def test_too_many_in_a_row_end_the_run_though_they_may_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_CONSECUTIVE_SKIPS", 2)
    monkeypatch.setattr(loop, "make_views", poisoned({2, 3, 4}, second_image))
    with pytest.raises(RunError, match="3 such steps in a row"):
        train(small(tmp_path, "skip"))


class CountedIndex(int):
    """An index that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedIndex.comparisons += 1
        return int.__eq__(self, other) is True

    __hash__ = int.__hash__


def test_files_that_changed_before_are_found_without_a_search(tmp_path: Path) -> None:
    """Comparing every file of a batch with every changed file took seconds a step on a million of them."""
    config = small(tmp_path)
    folder = RunFolder(tmp_path)
    messages: list[str] = []
    tracker = FailureTracker(config, folder, open_source("scenes:30000:16"), torch.device("cpu"), log=messages.append)
    before = [CountedIndex(index) for index in range(20000)]
    state = {"unreadable": {}, "changed": before, "seen": 0, "skipped": 0, "skipped_in_a_row": 0}
    tracker.restore(state)
    CountedIndex.comparisons = 0
    nothing = torch.empty(0)
    tracker.add_files(Batch(nothing, nothing, nothing, nothing, epoch=0, changed=list(range(19500, 20500))))
    assert CountedIndex.comparisons < 5000
    assert tracker.state()["changed"] == list(range(20500))
    assert not messages, "the first changed file was announced earlier"
    assert len((tmp_path / "changed.txt").read_text().splitlines()) == 20000 + 500


@pytest.mark.parametrize("cache", ["off", "on"])
def test_files_of_several_frames_are_said_once_and_counted(
    tmp_path: Path, cache: Literal["off", "on"], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "cache"))
    config = small(tmp_path, loader=LoaderConfig(cache=cache))
    frames = [Image.new("RGB", (36, 36), color) for color in ("red", "lime")]
    for name in ("20.gif", "21.gif"):
        frames[0].save(tmp_path / "photos" / name, save_all=True, append_images=frames[1:])
    config = replace(config, batch_size=6)

    gathers = []
    gather = failures.gather_objects
    monkeypatch.setattr(failures, "gather_objects", lambda objects: gathers.append(objects) or gather(objects))
    train(config)
    said = [line for line in capsys.readouterr().out.splitlines() if "several frames" in line]
    assert len(said) == 1
    assert ".gif holds several frames or pages" in said[0]
    assert json.loads((tmp_path / "run/summary.json").read_text())["several_frames"] == 2
    assert not any(gathers[6:]), "files that are counted already are not gathered again"

    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["several_frames"].tolist() == [16, 17]
    messages: list[str] = []
    source = open_source(config.data)
    tracker = FailureTracker(config, RunFolder(tmp_path / "run"), source, torch.device("cpu"), log=messages.append)
    tracker.restore(state)
    nothing = torch.empty(0)
    batch = Batch(nothing, nothing, nothing, nothing, epoch=0, several_frames=[17])
    assert not tracker.concerns(batch)
    assert tracker.concerns(replace(batch, several_frames=[3, 17]))
    tracker.add_files(replace(batch, several_frames=[3, 17]))
    assert not messages, "it was said before"
    assert tracker.state()["several_frames"].tolist() == [3, 16, 17]


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
        RunError, match=r"after step 8 the parameter .* is not finite and is not saved\. .*last good weights"
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"),
            "the device failed .CUDA error",
        ),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "see `nvidia-smi`"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "the device failed"),
    ],
)
def test_a_device_that_fails_ends_the_run_in_words_and_leaves_it_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, words: str
) -> None:
    config, steps = small(tmp_path), []

    def fail_at_the_sixth(*args: Any, **settings: Any) -> StepResult:
        steps.append(0)
        if len(steps) == 6:
            raise error
        return train_step(*args, **settings)

    monkeypatch.setattr(loop, "train_step", fail_at_the_sixth)
    with pytest.raises(RunError, match=rf"{words}.*last\.pt is intact: run the same command again to resume from it"):
        train(config)
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["step"] == 4
    train(config)
    assert (tmp_path / "run/summary.json").is_file()
