"""The results of a preset: one JSON file per method, RESULTS/PRESET/METHOD.json, with all its seeds.

A record is what is known of one seed under one name: TRAINING, FAILURE, or an evaluation. Each has a line of the file. What
many records share, configs and machines, is in the file once, and records name it by its hash:

    {"seeds": {"0": {"train": {"weights": "...", "config": HASH, "machine": HASH, ...}, "knn": {"metrics": {...}, ...}}},
     "configs": {HASH: {...}}, "machines": {HASH: {...}}}
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repre.errors import UserError
from repre.utils.folder_lock import writing
from repre.utils.io import json_hash, write_atomically

TRAINING, FAILURE = "train", "failure"
"""Names of the records that are no evaluations: how the encoder was trained, and why that failed."""
SHARED = {"config": "configs", "machine": "machines"}
"""Part of a record -> part of the file that holds it."""
SHORT = 1000
"""Configs with more characters, as those of pre-trainings, have a line per section."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes the same file; a write takes milliseconds."""

Record = dict[str, Any]
Records = dict[tuple[int, str], Record]
"""Records of a method by seed and name."""


class ResultsStore:
    """Reads and writes the results of a preset. Several processes may write records of one method at once.

    Args:
        folder: RESULTS/PRESET; it is made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, method: str) -> Path:
        """Returns the file of a method."""
        return self.folder / f"{method}.json"

    def methods(self) -> list[str]:
        """Returns the names of all methods that have a file."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def read(self, method: str) -> Records:
        """Returns the records of a method, with their config and machine; empty without a file.

        Configs have no seed: it is that of the record.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path(method)
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {
                (int(seed), name): record | {key: content[SHARED[key]][record[key]] for key in SHARED if key in record}
                for seed, by_name in content["seeds"].items()
                for name, record in by_name.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {error}); restore it from git, or move it away to measure "
                "the method again"
            ) from error

    def get(self, method: str, seed: int, name: str) -> Record | None:
        """Returns a record; None if there is none."""
        return self.read(method).get((seed, name))

    def put(self, method: str, seed: int, name: str, record: Mapping[str, Any]) -> None:
        """Writes a record, in place of the one with the same seed and name.

        Args:
            record: plain values; `config` and `machine`, where it has them, are dicts.

        Raises:
            UserError: the file is damaged, or another process writes it for a minute.
            RunError: the file cannot be written.
        """
        self._update(method, lambda records: records | {(seed, name): dict(record)})

    def remove(self, method: str, seed: int, name: str) -> None:
        """Removes a record, if there is one; errors are those of `put`."""
        if (seed, name) in self.read(method):
            self._update(method, lambda records: {key: each for key, each in records.items() if key != (seed, name)})

    def _update(self, method: str, change: Callable[[Records], Records]) -> None:
        """Replaces the records of a method while no other process does."""
        path = self.path(method)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path, patience=PATIENCE):
            text = file_text(change(self.read(method)))
            write_atomically(path, lambda file: file.write(text.encode()))


def is_current(records: Records, seed: int, name: str) -> bool:
    """Whether there is a result that was measured with the weights of the recorded training; else it is missing or stale."""
    result = records.get((seed, name))
    return result is not None and result.get("weights") == records.get((seed, TRAINING), {}).get("weights")


def file_text(records: Records) -> str:
    """Returns the content of a file, which depends on the records only, not on their order."""
    seeds: dict[str, dict[str, Record]] = {}
    shared: dict[str, dict[str, Any]] = {part: {} for part in SHARED.values()}
    for (seed, name), record in sorted(
        records.items(), key=lambda item: (item[0][0], item[0][1] != TRAINING, item[0][1])
    ):
        line = dict(record)
        for key, part in SHARED.items():
            if key in line:
                value = {each: item for each, item in line[key].items() if each != "seed"}
                line[key] = json_hash(value, length=8)
                shared[part][line[key]] = value
        seeds.setdefault(str(seed), {})[name] = line
    parts = {
        "seeds": _text(seeds, 2),
        "configs": _text(shared["configs"], 2, short=SHORT),
        "machines": _text(shared["machines"], 1),
    }
    return "{\n" + ",\n".join(f' "{part}": {text}' for part, text in parts.items()) + "\n}\n"


def _text(value: Any, levels: int, *, short: int = 0, indent: str = " ") -> str:
    """JSON with one line per item, down to `levels` of dicts; values of at most `short` characters stay on one line."""
    line = json.dumps(value)
    if not levels or not value or len(line) <= short:
        return line
    items = (
        f"{indent} {json.dumps(key)}: {_text(item, levels - 1, short=short, indent=indent + ' ')}"
        for key, item in value.items()
    )
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"
