"""The folder of a run: what lies where, who owns it, and the metrics that survive a restart.

config.yaml        the complete config; `--config` takes it back
metrics.jsonl/csv  one line per logged step
log.txt            what was printed; log.1.txt and so on are older
environment.json   versions and machine
unreadable.txt     files that were skipped, with the reason
changed.txt        files that were written to while the run went on
not_finite.jsonl   steps whose loss or gradient was not finite, with cause and files
files.gz           the list of files that the run began with (repre.data.loading.manifest)
.lock              held by the process that writes here
checkpoints/       last.pt, previous.pt (the one before it), best.pt
panel/             reconstructions of the same images over time, PNG
snapshots/         pictures and quantized features of a few images, for the report
alarms.jsonl       what the monitors found out of order
encoder/           safetensors + config.json; timm.create_model("local-dir:.../encoder", pretrained=True)
tensorboard/       event files
trackers.json      what other services call this run, where they are used
summary.json       written last; its presence means that the run is finished
"""

import contextlib
import csv
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml

from repre.config import RunConfig, differences, dump_yaml, identity, read_yaml
from repre.errors import RunError, UserError
from repre.utils.io import write_atomically, write_json

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]

LOG_BYTES, LOGS = 10_000_000, 3
"""Size at which log.txt becomes log.1.txt, and how many older ones are kept."""
PATIENCE = 10.0
"""Seconds that a run waits for a dying process to leave its folder."""


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
        self.changed = self.path / "changed.txt"
        self.not_finite = self.path / "not_finite.jsonl"
        self.files = self.path / "files.gz"
        self.lock = self.path / ".lock"
        self._locked: Any = None
        self.last = self.path / "checkpoints" / "last.pt"
        self.previous = self.path / "checkpoints" / "previous.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.panel = self.path / "panel"
        self.snapshots = self.path / "snapshots"
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
        elif self.path.is_dir() and {p.name for p in self.path.iterdir()} - self._first_files():
            raise UserError(f"--out {self.path} is not empty and holds no run of repre; name a new folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            write_atomically(self.config, lambda file: file.write(dump_yaml(config).encode()))
            for folder in (self.last.parent, self.panel, self.tensorboard):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(self.environment, environment())
        except (OSError, RunError) as error:
            raise UserError(f"--out {self.path} cannot be written ({error}); name another folder") from error
        return False

    def release(self) -> None:
        """Lets other processes write here."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def _first_files(self) -> set[str]:
        """What a process that was killed before it wrote the config may have left."""
        return {self.lock.name, f".{self.config.name}.partial"}

    def _take_lock(self) -> None:
        """Keeps a second process out, which would write the same files. The lock goes with this process, however it ends,
        and its workers do not inherit it."""
        if fcntl is None or self._locked is not None:
            return
        begun = time.monotonic()
        self._locked = open(self.lock, "ab")  # noqa: SIM115 - stays open, for the lock goes with it
        while True:
            try:
                fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() - begun > PATIENCE:
                    self.release()
                    raise UserError(f"another process is writing to {self.path}; wait for it, or stop it") from error
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def _refuse_other(self, config: RunConfig) -> None:
        try:
            other = read_yaml(self.config)
        except UserError as error:
            raise UserError(f"{error}; mend it, or name another --out") from error
        other = {k: v for k, v in other.items() if k not in ("runtime", "out")} if isinstance(other, dict) else {}
        lines = differences(_as_yaml(identity(config)), other)
        if lines:
            shown = "\n  ".join(lines[:8] + ([f"and {len(lines) - 8} more"] if len(lines) > 8 else []))
            raise UserError(
                f"{self.path} holds a run with another config:\n  {shown}\n"
                "name another --out, or give the same settings to continue that run"
            )

    def trim(self, step: int) -> None:
        """Drops what a stopped run logged beyond its last checkpoint, at `step`: lines of metrics, a torn last line, and,
        of a run that starts again, the lists of what was found out of order."""
        if self.metrics.is_file():
            kept: dict[int, dict[str, Any]] = {}
            for row in self.iter_metrics():
                if row["step"] <= step:
                    kept.setdefault(row["step"], row)
            _write_rows(self.metrics, list(kept.values()))
        if self.not_finite.is_file():
            _write_rows(self.not_finite, [row for row in _rows(self.not_finite) if row["step"] <= step])
        if step == 0:
            for path in (self.alarms, self.unreadable, self.changed):
                path.unlink(missing_ok=True)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole line of the metrics."""
        return list(self.iter_metrics())

    def iter_metrics(self) -> Iterator[dict[str, Any]]:
        """The same one by one: a long run has more of them than should lie in memory at each checkpoint."""
        if self.metrics.is_file():
            yield from _rows(self.metrics)

    def append_metrics(self, row: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(row))

    def append_not_finite(self, row: dict[str, Any]) -> None:
        with open(self.not_finite, "a", encoding="ascii") as file:  # names that are no UTF-8 are escaped in JSON
            file.write(_line(row))

    def sync(self) -> None:
        """Puts the metrics on the disk: a checkpoint must not know more steps than they, even after a power loss."""
        if self.metrics.is_file():
            with open(self.metrics, "ab") as file:
                os.fsync(file.fileno())

    def write_list(self, path: Path, lines: list[str]) -> None:
        """A list of files, one per line, as names are on the disk."""
        write_atomically(path, lambda file: file.write("".join(f"{line}\n" for line in lines).encode(**RAW)))

    def append_list(self, path: Path, lines: list[str]) -> None:
        with open(path, "a", **RAW) as file:
            file.writelines(f"{line}\n" for line in lines)

    def write_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """One line per alarm; no file without one."""
        if alarms or self.alarms.exists():
            write_atomically(self.alarms, lambda file: file.write("".join(_line(row) for row in alarms).encode()))

    def write_csv(self) -> None:
        """The metrics as a table, one column per name that ever occurred."""
        names = list(dict.fromkeys(name for row in self.iter_metrics() for name in row))

        def write(file: BinaryIO) -> None:
            table = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv.DictWriter(table, names)
            writer.writeheader()
            writer.writerows(self.iter_metrics())
            table.flush()
            table.detach()

        write_atomically(self.csv, write)

    def append_log(self, text: str) -> None:
        """Adds a line to the log, and begins a new file where that has become long."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                for number in range(LOGS, 0, -1):
                    older = self.path / f"log.{number}.txt"
                    newer = self.path / f"log.{number - 1}.txt" if number > 1 else self.log
                    if newer.is_file():
                        os.replace(newer, older)
        with open(self.log, "a", encoding="utf-8", errors="backslashreplace") as file:
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


RAW: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
"""Names of files may be no UTF-8."""


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of JSON lines; a crash in the middle of a write, or a power loss, leaves others."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomically(path, lambda file: file.writelines(_line(row).encode() for row in rows))


def _line(row: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _as_yaml(plain: dict[str, Any]) -> dict[str, Any]:
    """Plain values as they come back from a YAML file."""
    return yaml.safe_load(yaml.safe_dump(plain))
