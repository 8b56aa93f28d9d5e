"""Runs an evaluation and stores its result as JSON next to the encoder, with everything that defines it.

runs/photos/evaluations/segment-1f0c2a9b.json
runs/photos/evaluations/segment-1f0c2a9b/model/    the fitted encoder and head (`repre.evaluation.fitted`)
runs/photos/evaluations/random-init/               results of random:runs/photos, which gains are computed over
weights/evaluations/mae/                           results of vit_base_patch16_224=weights/mae.pth
evaluations/vit_base_patch16_224/                  in the working folder: an encoder that has no folder or file
"""

import contextlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repre import __version__
from repre.errors import UserError
from repre.evaluation.fitted.fitted_folder import MODEL, Origin, save_fitted
from repre.evaluation.registry import evaluation
from repre.evaluation.result import Result, definition
from repre.evaluation.result_groups import EVALUATIONS, RANDOM_INIT
from repre.models.resolve import ResolvedEncoder
from repre.models.weight_files import weights_file
from repre.utils.folder_lock import LONG_WAIT, writing
from repre.utils.io import json_hash, write_json
from repre.utils.os_errors import reason_of

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
    also_in: Path | None = None,
    data_identity: str | None = None,
) -> dict[str, Any]:
    """Evaluates an encoder and writes the result.

    If the config declares no range of pixel values, the one of the encoder's training is used and stored. While another
    process makes the same result, this one waits for it, and takes it.

    Args:
        name: of the evaluation.
        resolved: the encoder.
        config: an instance of the evaluation's config.
        out: folder for results; None: see `results_folder`.
        reuse: return a stored result of the same encoder, weights, config and files of the data instead of computing it
            again.
        keep_model: keep the fitted encoder and head in ``model/`` beside the result, for `repre predict`.
        also_in: another folder with stored results to reuse.
        data_identity: what the evaluation's `check` returned; None: it is called before a result is reused.

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
    work_dir = folder / f"{name}-{json_hash(defined_by, length=12)}"
    path = folder / f"{work_dir.name}.json"
    if reuse:
        for stored in (path, *([also_in / path.name] if also_in is not None else [])):
            if not stored.is_file():
                continue
            found, identity = read_result(stored), data_identity or _identity(name, resolved, config)
            if _has_same_data(found, identity) and found.get("pixels") == _pixels(resolved):
                return found
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, reason_of(error)) from error
    if not can_be_written(folder):
        raise _not_writable(folder, "Permission denied")
    before = _written_at(path)
    try:
        with writing(work_dir, patience=LONG_WAIT):
            made_while_waiting = _written_at(path) != before
            if made_while_waiting and (not keep_model or (work_dir / MODEL).is_dir()):
                return read_result(path)
            return _evaluate(name, resolved, config, defined_by, path, keep_model=keep_model)
    except Exception:  # a refused command leaves no empty folders behind
        with contextlib.suppress(OSError):
            for one in (*([work_dir] if work_dir.is_dir() else []), *made):
                one.rmdir()
        raise


def _evaluate(
    name: str, resolved: ResolvedEncoder, config: Any, defined_by: dict[str, Any], path: Path, *, keep_model: bool
) -> dict[str, Any]:
    """Computes a result and writes it to `path`; see `evaluate`."""
    started, work_dir = time.monotonic(), path.with_suffix("")
    result: Result = evaluation(name).run(resolved, config, work_dir=work_dir)
    content = {
        "format": FORMAT,
        **json.loads(json.dumps(defined_by, default=str)),
        "pixels": _pixels(resolved),
        "start": resolved.spec,
        "step": resolved.step,
        "seed": config.seed,
        "main": result.main,
        "higher_is_better": result.higher_is_better,
        "metrics": result.metrics,
        "details": result.details,
        "seconds": round(time.monotonic() - started, 2),
        "repre": __version__,
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


def _pixels(resolved: ResolvedEncoder) -> dict[str, list[float] | None]:
    """How pixels are normalized, as JSON holds it; the weights decide on it unless the user does."""
    pairs = {"mean": resolved.mean, "std": resolved.std}
    return {name: None if values is None else list(values) for name, values in pairs.items()}


def _written_at(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def results_folder(resolved: ResolvedEncoder) -> Path:
    """Returns the folder for results of an encoder, as the top of this file lists: beside the encoder where it has a place.

    ``RUN/encoder`` holds the weights of RUN, so its results are those of RUN.
    """
    folder, weights = resolved.folder, resolved.config.weights
    if folder is not None:
        run = folder.parent if folder.name == "encoder" and (folder.parent / "config.yaml").is_file() else folder
        return run / EVALUATIONS / RANDOM_INIT if weights is None else run / EVALUATIONS
    if weights not in (None, "hub"):
        file = weights_file(str(weights))
        return file.parent / EVALUATIONS / file.stem
    return Path(EVALUATIONS) / slug(resolved.spec)


def slug(spec: str) -> str:
    """Returns the name of an encoder as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in spec).strip("-.")[:80]


def can_be_written(folder: Path) -> bool:
    """Whether files can be created in a folder, or in the nearest one above it that exists."""
    existing = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _not_writable(folder: Path, reason: str | None) -> UserError:
    return UserError(f"results cannot be written to {folder} ({reason}); name another folder with --out")


def _identity(name: str, resolved: ResolvedEncoder, config: Any) -> str | None:
    """The identity of the data; None where an evaluation cannot tell."""
    check = evaluation(name).check
    return None if check is None else check(resolved, config)


def _has_same_data(stored: dict[str, Any], identity: str | None) -> bool:
    """Whether a stored result is of these files; True where an evaluation cannot tell."""
    return identity is None or stored["details"].get("data_identity") == identity


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
