"""Probes in a run: when they run, that they never change the weights, that a failed one does not end it, and `best`."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.config import RunConfig
from repre.data.labels.probe_config import ProbeConfig
from repre.errors import RunError, UserError
from repre.evaluation import label_probes
from repre.evaluation.label_probes import LabelProbes
from repre.evaluation.segmentation import segment_probe
from repre.models.encoder import Encoder
from repre.training.loop import train
from repre.utils.signals import Interrupted
from tests.training.monitoring.test_validator import quick, summary

pytestmark = pytest.mark.slow


@pytest.fixture
def quick_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that learn little, in little time."""
    monkeypatch.setattr(segment_probe, "HEAD_STEPS", 20)
    monkeypatch.setattr(label_probes, "LINEAR", replace(label_probes.LINEAR, steps=20))


def probed(out: Path, framework: str = "simclr", *, best: str = "rankme", **probe: Any) -> RunConfig:
    """Two steps per epoch, four epochs, with a validation after each."""
    plain = quick(out, framework)
    return replace(plain, runtime=replace(plain.runtime, best_metric=best), probe=ProbeConfig(**probe))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.pt", weights_only=True)["model"]


@pytest.mark.usefixtures("quick_heads")
@pytest.mark.parametrize("framework", ["moco-v3", "dino"])
def test_probes_never_change_the_weights(tmp_path: Path, framework: str) -> None:
    labels = "scenes:40:32"
    config = probed(tmp_path / "with", framework, knn=labels, linear=labels, segment="scenes:4:32")
    train(config, probe=LabelProbes(config))
    train(quick(tmp_path / "without", framework))
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(one[name], other[name]) for name in one)
    names = {"probe/knn", "probe/linear", "probe/miou", "probe/patch_knn"}
    assert all(names <= set(row) for row in summary(tmp_path / "with")["validations"])


def test_a_probe_has_a_frequency_of_its_own(tmp_path: Path) -> None:
    asked: list[int] = []

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        assert not encoder.training
        assert not torch.is_grad_enabled()
        asked.append(step)
        return {"probe/knn": step / 10}

    train(probed(tmp_path / "run", best="probe/knn", knn="labels", every_epochs=3), probe=probe)
    assert asked == [0, 6, 8]  # the first, the third epoch, the last
    assert ["probe/knn" in row for row in summary(tmp_path / "run")["validations"]] == [True, False, False, True, True]
    assert summary(tmp_path / "run")["best"]["step"] == 8


@pytest.mark.parametrize("error", [UserError, RunError])
def test_a_later_failure_of_a_probe_does_not_end_the_run(
    error: type[Exception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        if step == 4:
            raise error("a mask is gone")
        return {"probe/knn": 0.5}

    train(probed(tmp_path / "run", knn="labels"), probe=probe)
    assert ["probe/knn" in row for row in summary(tmp_path / "run")["validations"]] == [True, True, False, True, True]
    assert "step 4: the probe failed and is left out: a mask is gone" in capsys.readouterr().out


def test_labels_that_cannot_be_read_at_first_are_refused(tmp_path: Path) -> None:
    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        raise UserError("a mask is damaged")

    with pytest.raises(UserError, match="a mask is damaged"):
        train(probed(tmp_path / "run", knn="labels"), probe=probe)
    assert not (tmp_path / "run").exists()


def test_the_name_of_a_probe_is_suggested_in_full(tmp_path: Path) -> None:
    config = probed(tmp_path / "run", knn="labels", best="knn")
    with pytest.raises(UserError, match=r"no metric 'knn'; did you mean 'probe/knn'\?; available: .*probe/knn"):
        train(config, probe=lambda encoder, step: {"probe/knn": 0.5})
    assert not (tmp_path / "run").exists()


def stopped_after(config: RunConfig, values: dict[int, float], *, step: int) -> None:
    """Trains until the validation of a step is saved; the probe gives the values."""

    def probe(encoder: Encoder, at: int) -> dict[str, float]:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"probe/knn": values[at]}

    with pytest.raises(Interrupted):
        train(config, probe=probe)


def test_best_goes_on_after_a_stop_and_starts_anew_with_other_labels(tmp_path: Path) -> None:
    values = {0: 0.1, 2: 0.9, 4: 0.2, 6: 0.3, 8: 0.4}

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        return {"probe/knn": values[step]}

    config = probed(tmp_path / "run", best="probe/knn", knn="labels")
    stopped_after(config, values, step=4)
    assert not (tmp_path / "run/summary.json").exists()
    train(config, probe=probe)
    assert summary(tmp_path / "run")["best"]["step"] == 2

    config = probed(tmp_path / "other", best="probe/knn", knn="labels")
    stopped_after(config, values, step=4)
    train(replace(config, probe=ProbeConfig(knn="other labels")), probe=probe)
    assert summary(tmp_path / "other")["best"]["step"] == 8


def test_a_run_that_resumes_may_get_its_first_probe(tmp_path: Path) -> None:
    config = probed(tmp_path / "run", knn="labels")
    stopped_after(config, dict.fromkeys(range(9), 0.5), step=4)
    runtime = replace(config.runtime, best_metric="probe/miou")
    more = replace(config, probe=ProbeConfig(segment="pairs:a,b"), runtime=runtime)
    train(more, probe=lambda encoder, step: {"probe/miou": 1 / (1 + step)})
    assert summary(tmp_path / "run")["best"]["metric"] == "probe/miou"
    assert summary(tmp_path / "run")["best"]["step"] == 4


@pytest.mark.usefixtures("quick_heads")
def test_a_signal_interrupts_a_probe(tmp_path: Path) -> None:
    config = probed(tmp_path / "run", linear="scenes:40:32", segment="scenes:4:32")
    probes = LabelProbes(config)
    stopped: list[int] = []

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        if step == 4 and not stopped:
            stopped.append(step)
            handle = encoder.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            try:
                return probes(encoder)
            finally:
                handle.remove()
        return probes(encoder)

    with pytest.raises(Interrupted, match="stopped at step 4"):
        train(config, probe=probe)
    train(config, probe=probe)
    straight = replace(config, out=str(tmp_path / "straight"))
    train(straight, probe=LabelProbes(straight))

    def values(name: str) -> list[dict[str, float]]:
        rows = json.loads((tmp_path / name / "summary.json").read_text())["validations"]
        return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]

    assert [row["probe/miou"] for row in values("run")] == [row["probe/miou"] for row in values("straight")]
    assert [row["probe/linear"] for row in values("run")] == [row["probe/linear"] for row in values("straight")]
