"""Atomic checkpoints: written beside, flushed to the disk, renamed over the old one. Loading never runs code."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from repre.errors import RunError, UserError

FORMAT = 1
"""Version of the checkpoint's layout; raised when an older reader could not understand it."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file beside `path`, flushes it to the disk and renames it over `path`.

    A reader sees the old file or the new one, never a part. Raises RunError, the old file intact, if the disk is full
    or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as RuntimeError
        beside.unlink(missing_ok=True)
        raise RunError(f"could not write {path}: {error}; what was saved before is intact") from error


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Saves tensors and plain values atomically, with the format's version."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote. Refuses damaged and foreign files with a UserError; runs no code from them."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged or not a checkpoint of repre ({reason[:120]}); "
            "use another checkpoint, or start a new run with another --out"
        ) from error
    if not isinstance(state, dict) or "format" not in state:
        raise UserError(f"{path} is not a checkpoint of repre; weights of other origin go to --encoder.weights")
    if state["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state['format']}, this version of repre reads up to {FORMAT}; upgrade repre"
        )
    return state


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable where the system allows to open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
