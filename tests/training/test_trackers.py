"""Trackers call their libraries correctly; TensorBoard's files are read back."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repre.errors import UserError
from repre.training.trackers import open_trackers

ROW = {"step": 5, "loss": 1.5, "note": "text"}


class Fake(ModuleType):
    """A library that records the calls of its functions."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        return call


Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


def logged(monkeypatch: pytest.MonkeyPatch, run: Path, name: str) -> Calls:
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    run.mkdir(exist_ok=True)
    trackers = open_trackers((name,), run / "events", run=run, start=0, config={"epochs": 3})
    assert len(trackers) == 2
    for tracker in trackers:
        tracker.log(ROW, step=5)
        tracker.close()
    return fake.calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_config_rows_and_finish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    first, again, other = (logged(monkeypatch, tmp_path / run, name) for run in ("photos", "photos", "other"))
    (_, _, init), *rest = first
    run_id = init.pop("id", None)
    assert init == {"project": "repre", "name": "photos", "config": {"epochs": 3}, "resume": "allow"}
    assert rest == [("log", (ROW,), {"step": 5}), ("finish", (), {})]
    assert again[0][2].get("id") == run_id  # a resumed run continues its own curves
    assert (other[0][2].get("id") != run_id) == (name == "wandb")


def test_mlflow_gets_numbers_only_and_resumes_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rest = [("log_metrics", ({"step": 5, "loss": 1.5},), {"step": 5}), ("end_run", (), {})]
    assert logged(monkeypatch, tmp_path / "photos", "mlflow") == [
        ("set_experiment", ("repre",), {}),
        ("start_run", (), {"run_name": "photos"}),
        ("log_dict", ({"epochs": 3}, "config.yaml"), {}),
        *rest,
    ]
    assert logged(monkeypatch, tmp_path / "photos", "mlflow") == [
        ("set_experiment", ("repre",), {}),
        ("start_run", (), {"run_id": "r1"}),
        *rest,
    ]


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"runtime.trackers needs wandb, which is not installed; run: pip install .*wandb"
    ):
        open_trackers(("wandb",), tmp_path / "events", run=tmp_path, start=0, config={})


def test_events_after_the_resumed_step_replace_earlier_ones(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (2, 7.0)):
        (tracker,) = open_trackers((), tmp_path, run=tmp_path, start=start, config={})
        for step in range(start, start + 4):
            tracker.log({"loss": value + step, "note": "text"}, step=step)
        tracker.close()
        for file in tmp_path.glob(
            "*tfevents.[1-9]*"
        ):  # read in the order of names, which hold the second of their start
            file.rename(tmp_path / f"events.out.tfevents.0{start}")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 1), (1, 2), (2, 9), (3, 10), (4, 11), (5, 12)]
