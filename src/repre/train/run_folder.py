"""The folder of a run: what lies where, who owns it, and the metrics that survive a restart.

config.yaml        the complete config; `--config` takes it back
metrics.jsonl/csv  one line per logged step
log.txt            what was printed
environment.json   versions and machine
unreadable.txt     files that were skipped, with the reason
checkpoints/       last.pt, previous.pt (the one before it), best.pt
panel/             reconstructions of the same images over time, PNG
artefacts/         pictures and quantised features of a few images, for the report
alarms.jsonl       what the monitors found out of order
encoder/           safetensors + config.json; timm.create_model("local-dir:.../encoder", pretrained=True)
tensorboard/       event files
trackers.json      what other services call this run, where they are used
summary.json       written last; its presence means that the run is finished
"""

import csv
import io
import json
import math
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from repre.checkpoint import write_atomically, write_json
from repre.config import RunConfig, differences, dump_yaml, identity
from repre.errors import RunError, UserError


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.csv = self.path / "metrics.csv"
        self.log = self.path / "log.txt"
        self.environment = self.path / "environment.json"
        self.unreadable = self.path / "unreadable.txt"
        self.last = self.path / "checkpoints" / "last.pt"
        self.previous = self.path / "checkpoints" / "previous.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.panel = self.path / "panel"
        self.artefacts = self.path / "artefacts"
        self.alarms = self.path / "alarms.jsonl"
        self.encoder = self.path / "encoder"
        self.tensorboard = self.path / "tensorboard"
        self.summary = self.path / "summary.json"

    def claim(self, config: RunConfig) -> bool:
        """Makes the folder this run's, or finds that it already is; gives True if the run is finished.

        Raises UserError where the folder holds another run or other files, or cannot be written.
        """
        if self.config.is_file():
            self._refuse_other(config)
            if self.summary.is_file():
                return True
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; name a folder")
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"--out {self.path} is not empty and holds no run of repre; name a new folder")
        try:
            for folder in (self.last.parent, self.panel, self.tensorboard):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, lambda file: file.write(dump_yaml(config).encode()))
            write_json(self.environment, environment())
        except (OSError, RunError) as error:
            raise UserError(f"--out {self.path} cannot be written ({error}); name another folder") from error
        return False

    def _refuse_other(self, config: RunConfig) -> None:
        try:
            other = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{self.config} cannot be read; name another --out") from error
        other = {k: v for k, v in other.items() if k not in ("runtime", "out")} if isinstance(other, dict) else {}
        lines = differences(_as_yaml(identity(config)), other)
        if lines:
            shown = "\n  ".join(lines[:8] + ([f"and {len(lines) - 8} more"] if len(lines) > 8 else []))
            raise UserError(
                f"{self.path} holds a run with another config:\n  {shown}\n"
                "name another --out, or give the same settings to continue that run"
            )

    def trim_metrics(self, step: int) -> None:
        """Drops lines after `step`, and a torn last line: what a stopped run logged beyond its last checkpoint."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        write_atomically(self.metrics, lambda file: file.write("".join(_line(row) for row in kept).encode()))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole line of the metrics."""
        rows: list[dict[str, Any]] = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    continue  # torn by a crash in the middle of a write
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(row))

    def write_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """One line per alarm; no file without one."""
        if alarms or self.alarms.exists():
            write_atomically(self.alarms, lambda file: file.write("".join(_line(row) for row in alarms).encode()))

    def write_csv(self) -> None:
        """The metrics as a table, one column per name that ever occurred."""
        rows = self.read_metrics()
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, names)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.csv, lambda file: file.write(table.getvalue().encode()))

    def say(self, text: str) -> None:
        """Adds a line to the log."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def environment() -> dict[str, Any]:
    """Versions and machine, without names of people or hosts."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("repre", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["cores"] = os.cpu_count()
    found["threads"] = torch.get_num_threads()
    found["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["byteorder"] = sys.byteorder
    return found


def _line(row: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _as_yaml(plain: dict[str, Any]) -> dict[str, Any]:
    """Plain values as they come back from a YAML file."""
    return yaml.safe_load(yaml.safe_dump(plain))
