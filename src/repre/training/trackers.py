"""Sends metrics to TensorBoard, and to the services that the config names."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from repre.utils.io import write_json
from repre.utils.optional_imports import require

PROJECT = "repre"
RUN_IDS = "trackers.json"
"""File in the run folder with each service's identifier of the run; a resumed run continues its curves there."""


class Tracker(Protocol):
    """Receives rows of metrics by name; values that are not numbers may be left out."""

    def log(self, row: dict[str, Any], *, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files.

    Args:
        folder: where the files go.
        start: step at which the run resumes; earlier events of later steps are hidden.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if threading.excepthook is not _ThreadHook.hook:
            _ThreadHook.default, threading.excepthook = threading.excepthook, _ThreadHook.hook
        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def log(self, row: dict[str, Any], *, step: int) -> None:
        for name, value in _numbers(row).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Logs to Weights & Biases."""

    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        run_id = _run_ids(run).get("wandb") or uuid4().hex
        _save_run_id(run, "wandb", run_id)
        module.init(project=PROJECT, name=run.name, config=config, id=run_id, resume="allow")

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log(row, step=step)

    def close(self) -> None:
        self.module.finish()


class Trackio(WandB):
    """Logs to Trackio, which has Weights & Biases' interface but knows a run by its name."""

    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        module.init(project=PROJECT, name=run.name, config=config, resume="allow")


class MLflow:
    """Logs to MLflow."""

    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        module.set_experiment(PROJECT)
        run_id = _run_ids(run).get("mlflow")
        if run_id is not None:
            module.start_run(run_id=run_id)
        else:
            _save_run_id(run, "mlflow", module.start_run(run_name=run.name).info.run_id)
            module.log_dict(config, "config.yaml")

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log_metrics(_numbers(row), step=step)

    def close(self) -> None:
        self.module.end_run()


SERVICES: dict[str, Callable[..., Tracker]] = {"wandb": WandB, "trackio": Trackio, "mlflow": MLflow}
"""Trackers by the name of their library, which is also the name of the extra that installs it."""


def open_trackers(
    names: tuple[str, ...], folder: Path, *, run: Path, start: int, config: dict[str, Any]
) -> list[Tracker]:
    """Opens TensorBoard and the named services.

    Args:
        names: keys of `SERVICES`.
        folder: where TensorBoard's files go.
        run: folder of the run; its name is the run's name in the services.
        start: step at which the run starts or resumes.
        config: plain values that are shown beside the metrics.

    Raises:
        UserError: the library of a service is not installed.
    """
    trackers: list[Tracker] = [TensorBoard(folder, start=start)]
    for name in names:
        module = require(name, extra=name, purpose="runtime.trackers")
        trackers.append(SERVICES[name](module, run=run, config=config))
    return trackers


class _ThreadHook:
    """Prints no traceback of TensorBoard's writing thread; its error is raised again where the next row is logged."""

    default: Callable[[Any], Any] = threading.__excepthook__

    @staticmethod
    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            _ThreadHook.default(args)


def _numbers(row: dict[str, Any]) -> dict[str, int | float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def _run_ids(run: Path) -> dict[str, str]:
    """Identifiers of the run by service; empty if none was saved."""
    file = run / RUN_IDS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _save_run_id(run: Path, service: str, run_id: str) -> None:
    write_json(run / RUN_IDS, _run_ids(run) | {service: run_id})
