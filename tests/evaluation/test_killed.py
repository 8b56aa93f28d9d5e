"""Every evaluation that is killed ends, given again, with the metrics of one that was not, bit for bit; nothing finished is
repeated."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.data.scenes import Scenes
from repre.evaluation import fit as fit_module
from repre.evaluation.classification import knn, linear_fit
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.knn import KNNConfig
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.detection.detect import DetectConfig
from repre.evaluation.fit import FitConfig
from repre.evaluation.fitted.fitted_folder import load_fitted
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.models.resolve import ResolvedEncoder
from repre.utils.safe_load import content_hash
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import on_cpu
from tests.tiny import ENCODERS

ENCODER = ResolvedEncoder("random:vit", ENCODERS["vit"], None)
FIT = FitConfig(epochs=2, batch_size=4)


def configs(cache: Path) -> dict[str, Any]:
    runtime = on_cpu(cache, batch=8)
    halves = {"label_fraction": (0.5, 1.0), "runtime": runtime}
    return {
        "knn": KNNConfig(data="scenes:16:32", k=(1,), runtime=runtime),
        "linear": LinearConfig(
            data="scenes:30:32", steps=6, lrs=(0.1, 1.0), batch_size=8, shots=(1,), draws=2, **halves
        ),
        "finetune": FinetuneConfig(data="scenes:16:32", fit=FIT, **halves),
        "segment": SegmentConfig(data="scenes:16:32", fit=FIT, **halves),
        "upernet": SegmentConfig(data="scenes:16:32", head="upernet", width=16, fit=FIT, **halves),
        "detect": DetectConfig(data="scenes:8:48", width=16, fit=replace(FIT, batch_size=2), **halves),
    }


class Steps:
    """Calls of what an evaluation repeats; at some of them the process is asked to stop, or is killed."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.signal = 0, -1, signal.SIGKILL
        owner: Any = {"knn": knn, "linear": linear_fit._Training}.get(name, torch.optim.AdamW)
        attribute = {"knn": "cached_features", "linear": "_take_step"}.get(name, "step")
        original = getattr(owner, attribute)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), self.signal)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, attribute, counted)


def run(name: str, config: Any, out: Path) -> dict[str, Any]:
    return evaluate("segment" if name == "upernet" else name, ENCODER, config, out=out)


def killed(call: Callable[[], Any]) -> None:
    """Runs a call that kills its process in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(autouse=True)
def few_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scenes, "held_out", lambda scenes, dense=False: Scenes(8, config=scenes.config, split="val"))


@pytest.mark.slow
@pytest.mark.parametrize("name", configs(Path()))
def test_a_killed_evaluation_ends_with_the_same_metrics(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (fit_module, linear_fit):
        monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)  # every step is saved
    steps = Steps(name, monkeypatch)
    whole = run(name, configs(tmp_path / "a")[name], tmp_path / "whole")
    total, steps.count = steps.count, 0
    config = configs(tmp_path / "b")[name]
    for steps.at in (2, total // 2 if name != "knn" else 1):  # of what is left
        killed(lambda: run(name, config, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.json"))
    steps.at = -1
    resumed = run(name, config, tmp_path / "out")
    assert resumed["metrics"] == whole["metrics"]
    # The first call was killed in step 2, the second in half of the steps: what came before each was not repeated.
    assert steps.count == (total if name == "knn" else total - 1 - (total // 2 - 1))
    if name != "knn":
        one, other = (load_fitted(Path(result["path"])).state_dict() for result in (whole, resumed))
        assert content_hash(one) == content_hash(other)
    assert not list((tmp_path / "out").rglob("fit-*"))


@pytest.mark.parametrize("name", [name for name in configs(Path()) if name != "knn"])
def test_a_stopped_evaluation_says_how_to_resume_and_keeps_what_is_fitted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, steps = configs(tmp_path)[name], Steps(name, monkeypatch)
    whole = run(name, config, tmp_path / "whole")
    total, steps.count, steps.signal = steps.count, 0, signal.SIGINT
    steps.at = total - 2
    with pytest.raises(Interrupted, match="run the same command again to resume") as stopped:
        run(name, config, tmp_path / "out")
    assert stopped.value.code == 128 + signal.SIGINT
    assert run(name, config, tmp_path / "out")["metrics"] == whole["metrics"]
    assert steps.count == total
