"""Runs an evaluation and keeps what it said as JSON beside the encoder, with everything that defines it.

runs/photos/evaluations/segment-1f0c2a9b.json
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repre.config import to_dict
from repre.errors import UserError
from repre.evaluation.registry import evaluation, results_folder
from repre.evaluation.result import Result
from repre.models.resolve import ResolvedEncoder
from repre.utils.io import json_hash, write_json

FORMAT = 1
"""Version of the JSON's layout."""
KEPT_APART = ("runtime", "save_predictions", "save_encoder")
"""Settings that change no figure."""


def evaluate(
    name: str, start: ResolvedEncoder, config: Any, *, out: Path | None = None, reuse: bool = False
) -> dict[str, Any]:
    """Evaluates one encoder and writes the result; gives what was written, with its `path`. Where the config declares no
    range of pixel values, the one that the encoder was trained with stands in it.

    Args:
        out: the folder of results; by default beside the encoder (`results_folder`).
        reuse: take a stored result of the same encoder, weights and config instead of computing it again.
    """
    if start.value_range is not None and getattr(config, "value_range", ()) is None:
        config = replace(config, value_range=start.value_range)
    folder = out or results_folder(start.folder, start.spec)
    defines = {
        "evaluation": name,
        "encoder": to_dict(start.config) | {"weights": start.fingerprint},
        "config": {key: value for key, value in to_dict(config).items() if key not in KEPT_APART},
    }
    digest = json_hash(defines, length=12)
    path = folder / f"{name}-{digest}.json"
    if reuse and path.is_file():
        return read_result(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"results cannot be written to {folder} ({error.strerror}); name another folder with --out"
        ) from error
    begun = time.monotonic()
    work = folder / f"{name}-{digest}"
    result: Result = evaluation(name).run(start, config, work=work)
    content = {
        "format": FORMAT,
        **json.loads(json.dumps(defines, default=str)),
        "start": start.spec,
        "seed": config.seed,
        "main": result.main,
        "higher_is_better": result.higher_is_better,
        "metrics": result.metrics,
        "details": result.details,
        "seconds": round(time.monotonic() - begun, 2),
    }
    write_json(path, content)
    for checkpoint in work.glob("fit-*.pt"):  # served an interrupted evaluation; this one is complete
        checkpoint.unlink()
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
    return {**content, "path": str(path)}


def read_result(path: Path) -> dict[str, Any]:
    """A stored result, with its `path`; UserError where the file is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise UserError(f"{path} was written by a newer version of repre; upgrade repre")
        content["metrics"][content["main"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no result of an evaluation ({type(error).__name__}: {error}); remove it") from error
    return {**content, "path": str(path)}
