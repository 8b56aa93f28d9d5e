"""The folder of a run: the files in it, the lock on it, and metrics that survive a restart.

config.yaml        the complete config, in the form that `--config` reads
metrics.jsonl/csv  one line per logged step
log.txt            everything that was printed; log.1.txt and so on are older
environment.json   versions and machine
unreadable.txt     files that could not be read, with the reason
changed.txt        files whose content changed during the run
not_finite.jsonl   steps whose loss or gradient was not finite, with cause and files
files.gz           the files that the run began with (repre.data.loading.manifest)
.lock              locked by the process that writes here
checkpoints/       last.pt, previous.pt (the one before it), best.pt; further ones: repre.training.kept_checkpoints
panel/             reconstructions of the same images at every validation, PNG
snapshots/         pictures and quantized features of a few images, for the report
alarms.jsonl       the alarms of the monitors
encoder/           safetensors + config.json; timm.create_model("local-dir:.../encoder", pretrained=True)
tensorboard/       event files
trackers.json      identifiers of the run in other services, if there are any
probes.json        on which labels the probes measured, and the numbers of images
summary.json       written last; its presence marks the run as finished
failure.json       why the run ended early (repre.training.failure_record); removed when it resumes
"""

import contextlib
import csv
import io
import json
import os
import platform
import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch

from repre.config import RunConfig, dump_yaml
from repre.config_values import read_yaml
from repre.errors import RunError, UserError
from repre.training.json_rows import append_row, read_rows, write_rows
from repre.training.same_run import check_same_run
from repre.utils.folder_lock import FolderLock
from repre.utils.io import write_atomically, write_json

MAX_LOG_BYTES = 10_000_000
"""Size at which log.txt is renamed to log.1.txt."""
LOG_BACKUPS = 3
"""Older log files to keep."""
UNSAVED = (
    *("config.yaml", "environment.json", "files.gz", "log.txt", "metrics.jsonl", "metrics.csv", "probes.json"),
    *(
        "unreadable.txt",
        "changed.txt",
        "not_finite.jsonl",
        "alarms.jsonl",
        "failure.json",
        "trackers.json",
        "report.html",
    ),
    *("checkpoints", "panel", "snapshots", "tensorboard"),
)
"""What a run may write before its first checkpoint."""
FILE_NAME_ENCODING: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
"""Writes file names with the bytes that they have on the disk, which may not be UTF-8."""


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
        self.last = self.path / "checkpoints" / "last.pt"
        self.previous = self.path / "checkpoints" / "previous.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.probes = self.path / "probes.json"
        self.stable = self.path / "checkpoints" / "stable.pt"
        self.panel = self.path / "panel"
        self.snapshots = self.path / "snapshots"
        self.alarms = self.path / "alarms.jsonl"
        self.encoder = self.path / "encoder"
        self.tensorboard = self.path / "tensorboard"
        self.summary = self.path / "summary.json"
        self._lock = FolderLock(self.lock)
        self._is_new = self._replaces = False
        self._new_parents: list[Path] = []
        self.step = self.total_steps = 0  # of the process that trains

    def check(self, config: RunConfig) -> bool:
        """Whether the folder can hold the run, without a change to it. Until something was saved, a run that began there
        gives way to one with other settings: its command was a mistake, or was stopped.

        Returns:
            Whether the run is already finished.

        Raises:
            UserError: the folder holds another run or other files, or is a file.
        """
        self._replaces = False
        if self.config.is_file():
            try:
                check_same_run(config, self.path, data_is_listed=self.files.is_file(), finished=self.summary.is_file())
            except UserError:
                if any(file.is_file() for file in (self.summary, self.last, self.previous)):
                    raise
                self._replaces = True
            return self.summary.is_file()
        if not config.out:
            raise UserError("--out is empty; name a folder")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; name a folder")
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} - self._names_before_config():
            raise UserError(f"--out {self.path} is not empty and holds no run of repre; name a new folder")
        return False

    def prepare(self, config: RunConfig) -> bool:
        """Creates the folder for a run, or reopens it to resume that run, and locks it.

        Returns:
            Whether the run is already finished; then nothing is locked or written.

        Raises:
            UserError: see `check`; or another process writes to the folder, or it cannot be written.
        """
        if self.check(config):
            return True
        try:
            self._new_parents = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            if self._replaces:
                self._remove_unsaved()
            if not self.config.is_file():
                self._is_new = True
                self.write_config(config)
            for folder in (self.last.parent, self.panel, self.tensorboard):
                folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RunError) as error:
            self._remove_new_parents()
            raise UserError(f"--out {self.path} cannot be written ({error}); name another folder") from error
        return False

    def withdraw(self) -> None:
        """Leaves the folder as it was before the call of `prepare` that began the run, unless the run was saved since: a
        refused command must not keep the corrected one from using the folder."""
        if self._is_new and not self.last.is_file():
            self._remove_unsaved()
            self.lock.unlink(missing_ok=True)
            self._remove_new_parents()

    def _remove_unsaved(self) -> None:
        """Removes what a run writes before its first checkpoint."""
        for file in self.path.iterdir() if self.path.is_dir() else ():
            if file.name in UNSAVED or file.match("log.*.txt"):
                shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)

    def _remove_new_parents(self) -> None:
        """Removes the folders that `prepare` created, as far as nothing else is in them."""
        with contextlib.suppress(OSError):
            for folder in self._new_parents:
                folder.rmdir()

    def is_there(self) -> bool:
        """Whether the folder is still the one that `prepare` locked: it was neither moved nor deleted."""
        return self._lock.is_in_place()

    def release(self) -> None:
        """Releases the lock, if this process holds it."""
        self._lock.release()

    def recorded_micro_batch(self) -> int | None:
        """The micro-batch that the run found to fit when it ran before; None if there is none."""
        settings = read_yaml(self.config) if self.config.is_file() else None
        compute = settings.get("compute") if isinstance(settings, dict) else None
        number = compute.get("micro_batch") if isinstance(compute, dict) else None
        return number if isinstance(number, int) and number > 0 else None

    def begin(self, config: RunConfig) -> str | None:
        """Writes machine and versions, and the config of a run that begins or resumes, which may have other data paths and
        a micro-batch of its own.

        Returns:
            What to say where a run resumes on another machine or with other versions or threads.
        """
        note = self._add_environment()
        recorded = self.recorded_micro_batch() if config.compute.micro_batch == "auto" else None
        self.write_config(config, micro_batch=recorded)
        return note

    def _add_environment(self) -> str | None:
        """Writes the environment, with those before it that differ; returns what differs from the last one."""
        now, before = environment(), None
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(self.environment.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            write_json(self.environment, now)
            return None
        earlier = before.pop("earlier", [])
        changed = [
            f"{name} {value}, before {before.get(name)}" for name, value in now.items() if before.get(name) != value
        ]
        earlier += [before] if changed else []
        write_json(self.environment, now | ({"earlier": earlier} if earlier else {}))
        if not changed:
            return None
        return f"the run continues, but not bit-equal to one that never stopped: {'; '.join(changed)}"

    def write_config(self, config: RunConfig, *, micro_batch: int | None = None) -> None:
        """Writes config.yaml, with the micro-batch that was found to fit where there is one."""
        if micro_batch is not None:
            config = replace(config, compute=replace(config.compute, micro_batch=micro_batch))
        write_atomically(self.config, lambda file: file.write(dump_yaml(config).encode()))

    @property
    def resume_advice(self) -> str:
        """What the user can rely on after a failure, and what to do."""
        if self.last.is_file():
            return f"{self.last} is intact: run the same command again to resume from it"
        return "No checkpoint was saved yet: the same command starts the run again"

    def _names_before_config(self) -> set[str]:
        """Names of files that may exist if a process was killed before it wrote the config."""
        return {self.lock.name, f".{self.config.name}.partial"}

    # ------------------------------------------------------------------------------------------------- metrics

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; lines that a crash left incomplete are skipped."""
        return list(read_rows(self.metrics))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl; numbers that are not finite become null."""
        append_row(self.metrics, row)

    def append_not_finite(self, row: dict[str, Any]) -> None:
        """Adds a row to not_finite.jsonl."""
        append_row(self.not_finite, row)

    def discard_after(self, step: int) -> None:
        """Removes what a stopped run logged after its last checkpoint, so that every step is logged once.

        Args:
            step: step of the checkpoint; at 0 the run starts again, and its alarms and lists of files are removed too.
        """
        if self.metrics.is_file():
            rows: dict[int, dict[str, Any]] = {}
            for row in read_rows(self.metrics):
                if row["step"] <= step:
                    rows.setdefault(row["step"], row)
            write_rows(self.metrics, rows.values())
        if self.not_finite.is_file():
            write_rows(self.not_finite, [row for row in read_rows(self.not_finite) if row["step"] <= step])
        if step == 0:
            for path in (self.alarms, self.unreadable, self.changed):
                path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Flushes the metrics to the disk: even after a power loss, they must reach as far as the checkpoint."""
        if self.metrics.is_file():
            with open(self.metrics, "ab") as file:
                os.fsync(file.fileno())

    def write_csv(self) -> None:
        """Writes the metrics as a table with a column for every name; rows are streamed, because there may be many."""
        names = list(dict.fromkeys(name for row in read_rows(self.metrics) for name in row))

        def write(file: BinaryIO) -> None:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv.DictWriter(text, names)
            writer.writeheader()
            writer.writerows(read_rows(self.metrics))
            text.flush()
            text.detach()

        write_atomically(self.csv, write)

    # --------------------------------------------------------------------------------------- lists, alarms, log

    def write_list(self, path: Path, lines: list[str]) -> None:
        """Writes a list of files, one per line; see `FILE_NAME_ENCODING`."""
        write_atomically(path, lambda file: file.write("".join(f"{x}\n" for x in lines).encode(**FILE_NAME_ENCODING)))

    def append_list(self, path: Path, lines: list[str]) -> None:
        """Adds lines to a list of files."""
        with open(path, "a", **FILE_NAME_ENCODING) as file:
            file.writelines(f"{line}\n" for line in lines)

    def write_alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Writes one line per alarm; without alarms there is no file."""
        if alarms or self.alarms.exists():
            write_rows(self.alarms, alarms)

    def append_log(self, text: str) -> None:
        """Adds a line to log.txt; when the file has grown too long, older lines move to log.1.txt and so on."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                self._rotate_logs()
        with open(self.log, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def _rotate_logs(self) -> None:
        files = [self.log, *(self.path / f"log.{number}.txt" for number in range(1, LOG_BACKUPS + 1))]
        for newer, older in reversed([*pairwise(files)]):
            if newer.is_file():
                os.replace(newer, older)


def environment() -> dict[str, Any]:
    """Versions of packages and properties of the machine, without names of users or hosts."""
    versions: dict[str, str | None] = {}
    for package in ("repre", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "byteorder": sys.byteorder,
    }
