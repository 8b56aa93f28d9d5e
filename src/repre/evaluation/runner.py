"""Runs an evaluation and stores its result as JSON beside the encoder, with everything that defines it.

runs/photos/evaluations/segment-1f0c2a9b.json
runs/photos/evaluations/segment-1f0c2a9b/model/    the fitted encoder and head (`repre.evaluation.fitted`)
"""

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repre.errors import UserError
from repre.evaluation.fitted.fitted_folder import MODEL, Origin, save_fitted
from repre.evaluation.registry import evaluation
from repre.evaluation.result import Result, definition
from repre.models.resolve import ResolvedEncoder
from repre.utils.io import json_hash, write_json

FORMAT = 1
"""Version of the JSON's layout."""


def evaluate(
    name: str,
    resolved: ResolvedEncoder,
    config: Any,
    *,
    out: Path | None = None,
    reuse: bool = False,
    keep_model: bool = True,
) -> dict[str, Any]:
    """Evaluates an encoder and writes the result.

    If the config declares no range of pixel values, the one of the encoder's training is used and stored.

    Args:
        name: of the evaluation.
        resolved: the encoder.
        config: an instance of the evaluation's config.
        out: folder for results; None: see `results_folder`.
        reuse: return a stored result of the same encoder, weights and config instead of computing it again.
        keep_model: keep the fitted encoder and head in ``model/`` beside the result, for `repre predict`.

    Returns:
        The content of the JSON file, and its `path`.

    Raises:
        UserError: no such evaluation, a mistake in the config or the data, or the folder cannot be written.
        Interrupted: a signal asked to stop; the same call resumes.
    """
    if resolved.value_range is not None and getattr(config, "value_range", ()) is None:
        config = replace(config, value_range=resolved.value_range)
    defined_by = definition(name, resolved, config)
    folder = out or results_folder(resolved)
    stem = f"{name}-{json_hash(defined_by, length=12)}"
    path = folder / f"{stem}.json"
    if reuse and path.is_file():
        return read_result(path)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"results cannot be written to {folder} ({error.strerror}); name another folder with --out"
        ) from error
    started = time.monotonic()
    work_dir = folder / stem
    try:
        result: Result = evaluation(name).run(resolved, config, work_dir=work_dir)
    except Exception:  # a refused command leaves no empty folders behind
        with contextlib.suppress(OSError):
            for one in (*([work_dir] if work_dir.is_dir() else []), *made):
                one.rmdir()
        raise
    content = {
        "format": FORMAT,
        **json.loads(json.dumps(defined_by, default=str)),
        "start": resolved.spec,
        "seed": config.seed,
        "main": result.main,
        "higher_is_better": result.higher_is_better,
        "metrics": result.metrics,
        "details": result.details,
        "seconds": round(time.monotonic() - started, 2),
    }
    if keep_model and result.fitted is not None:
        origin = Origin(
            evaluation=name,
            result=path.name,
            encoder_weights=defined_by["encoder"]["weights"],
            metric=result.main,
            value=float(result.metrics[result.main]),
        )
        save_fitted(result.fitted, work_dir / MODEL, origin)
    write_json(path, content)
    for checkpoint in work_dir.glob("fit-*.pt"):  # they only serve an evaluation that was interrupted
        checkpoint.unlink()
    if work_dir.is_dir() and not any(work_dir.iterdir()):
        work_dir.rmdir()
    return {**content, "path": str(path)}


def results_folder(resolved: ResolvedEncoder) -> Path:
    """Returns the folder for results of an encoder.

    It is ``evaluations/`` beside the encoder, or ``evaluations/NAME`` in the working folder if the encoder has no folder.
    """
    if resolved.folder is not None:
        return resolved.folder / "evaluations"
    slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in resolved.spec).strip("-.")[:80]
    return Path("evaluations") / slug


def read_result(path: Path) -> dict[str, Any]:
    """Reads a stored result.

    Returns:
        The content of the file, and its `path`.

    Raises:
        UserError: the file is damaged, or a newer version of repre wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise UserError(f"{path} was written by a newer version of repre; upgrade repre")
        content["metrics"][content["main"]]
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the result of an evaluation ({type(error).__name__}: {error}); remove it"
        ) from error
    return {**content, "path": str(path)}
