"""Where metrics go beside the run folder: TensorBoard always, other services where asked for."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from repre.errors import UserError

PROJECT = "repre"
IDENTITIES = "trackers.json"
"""File of the run folder: what each service calls the run."""


class Tracker(Protocol):
    def log(self, row: dict[str, Any], *, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder."""

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=start or None)

    def log(self, row: dict[str, Any], *, step: int) -> None:
        for name, value in row.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        identity = _identity(run, "wandb") or _remember(run, "wandb", uuid4().hex)
        module.init(project=PROJECT, name=run.name, config=config, id=identity, resume="allow")

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log(row, step=step)

    def close(self) -> None:
        self.module.finish()


class _Trackio(_WandB):
    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        module.init(project=PROJECT, name=run.name, config=config, resume="allow")


class _MLflow:
    def __init__(self, module: Any, *, run: Path, config: dict[str, Any]) -> None:
        self.module = module
        module.set_experiment(PROJECT)
        known = _identity(run, "mlflow")
        started = module.start_run(run_id=known) if known else module.start_run(run_name=run.name)
        if not known:
            _remember(run, "mlflow", started.info.run_id)
            module.log_dict(config, "config.yaml")

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log_metrics({k: v for k, v in row.items() if isinstance(v, int | float)}, step=step)

    def close(self) -> None:
        self.module.end_run()


SERVICES: dict[str, Callable[..., Tracker]] = {"wandb": _WandB, "trackio": _Trackio, "mlflow": _MLflow}


def _identity(run: Path, service: str) -> str | None:
    """What the service calls this run, where it was told of it before: a resumed run goes on with its curves."""
    file = run / IDENTITIES
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found.get(service)


def _remember(run: Path, service: str, identity: str) -> str:
    file = run / IDENTITIES
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(known | {service: identity}) + "\n", encoding="utf-8")
    return identity


def open_trackers(
    names: tuple[str, ...], folder: Path, *, run: Path, start: int, config: dict[str, Any]
) -> list[Tracker]:
    """TensorBoard in `folder`, and the named services; UserError where a service is not installed."""
    trackers: list[Tracker] = [TensorBoard(folder, start=start)]
    for name in names:
        try:
            module = import_module(name)
        except ImportError as error:
            raise UserError(f"runtime.trackers: {name} is not installed; run: pip install 'repre[{name}]'") from error
        trackers.append(SERVICES[name](module, run=run, config=config))
    return trackers
