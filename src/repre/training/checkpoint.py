"""Atomic checkpoints: written to a new file, flushed to the disk, read back, renamed over the old one, which is kept.

Every checkpoint carries a hash of its content. Loading compares it and never runs code from the file; where the last
checkpoint is damaged, `load_latest` falls back on the one before it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from repre.errors import RunError, UserError
from repre.utils.io import write_atomically
from repre.utils.safe_load import UNREADABLE, content_hash, load_tensors

FORMAT = 3
"""Version of the checkpoint's layout; raised when a reader of another version could not understand it."""


def save_checkpoint(path: Path, state: dict[str, Any], *, backup: Path | None = None) -> None:
    """Saves tensors and plain values atomically, with the format's version and the hash of the content.

    A checkpoint that cannot be read back does not replace the old one.

    Args:
        backup: another name that the old checkpoint keeps.

    Raises:
        RunError: it could not be written or read back; the old one is intact.
    """
    body = {key: value for key, value in state.items() if key != "format"}
    content = {"format": FORMAT, **body, "sha256": content_hash(body)}

    def write(file: BinaryIO) -> None:
        torch.save(content, file)
        file.flush()
        _load(Path(file.name), torch.device("cpu"))

    replace_checkpoint(path, write, backup=backup)


def replace_checkpoint(path: Path, write: Callable[[BinaryIO], object], *, backup: Path | None) -> None:
    """Replaces a checkpoint by what `write` fills a file with; a UserError of `write` says that it cannot be read back.

    Raises:
        RunError: see `save_checkpoint`.
    """
    try:
        write_atomically(path, write, backup=backup)
    except UserError as error:
        raise RunError(
            f"what was written to {path} could not be read back ({error}); the old one is intact", kind="disk"
        ) from error


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote. Refuses damaged and foreign files with a UserError; runs no code from them."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        return _load(path, torch.device(device))
    except UserError as error:
        raise UserError(f"{error}; use another checkpoint, or start a new run with another --out") from error


def checkpoint_file(spec: str) -> Path:
    """The file of a checkpoint by its path, or by RUN@NAME, which is RUN/checkpoints/NAME.pt; it may not exist."""
    run, at, name = spec.rpartition("@")
    if at and name and not Path(spec).expanduser().exists() and (Path(run).expanduser() / "checkpoints").is_dir():
        return Path(run).expanduser() / "checkpoints" / f"{name}.pt"
    return Path(spec).expanduser()


def load_latest(
    path: Path, previous: Path, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], str | None] | None:
    """The checkpoint `path`, or `previous` where it is damaged or missing, with a message about that; None without both.

    Raises UserError where there are checkpoints but none can be read.
    """
    if not path.is_file() and not previous.is_file():
        return None
    try:
        return load_checkpoint(path, device=device), None
    except UserError as error:
        if not previous.is_file():
            raise
        return load_checkpoint(previous, device=device), f"{error}. Resuming from {previous.name} instead"


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = load_tensors(path, device=device)
    except UserError:
        raise
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint of repre ({reason[:120]})") from error
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise UserError(f"{path} is not a checkpoint of repre; give other weights to --encoder.weights")
    check_content(state, path)
    return state


def check_content(state: dict[str, Any], path: Path) -> None:
    """Checks format and hash of what a checkpoint holds, and takes the hash out.

    Raises:
        UserError: another version wrote it, or it is damaged.
    """
    if state["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state['format']}, this version of repre reads {FORMAT}; upgrade repre"
        )
    if state["format"] < FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state['format']} of an earlier version, this one reads {FORMAT}; "
            "finish that run with the version that began it, or start again"
        )
    wanted = state.pop("sha256", None)
    if wanted != content_hash({key: value for key, value in state.items() if key != "format"}):
        raise UserError(f"{path} is damaged: its content does not match its hash")
