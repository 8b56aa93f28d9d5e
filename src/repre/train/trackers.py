"""Where metrics go beside the run folder: TensorBoard always, other services where asked for."""

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from repre.errors import UserError


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


class _Service:
    """A library with `init`, `log` and `finish`, as Weights & Biases and Trackio have."""

    def __init__(self, module: Any, *, project: str, name: str, config: dict[str, Any]) -> None:
        self.module = module
        module.init(project=project, name=name, config=config)

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log(row, step=step)

    def close(self) -> None:
        self.module.finish()


class _MLflow:
    def __init__(self, module: Any, *, project: str, name: str, config: dict[str, Any]) -> None:
        self.module = module
        module.set_experiment(project)
        module.start_run(run_name=name)
        module.log_dict(config, "config.yaml")

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.module.log_metrics({k: v for k, v in row.items() if isinstance(v, int | float)}, step=step)

    def close(self) -> None:
        self.module.end_run()


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
        kind = _MLflow if name == "mlflow" else _Service
        trackers.append(kind(module, project="repre", name=run.name, config=config))
    return trackers
