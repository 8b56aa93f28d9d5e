"""Atomic checkpoints: written beside, flushed to the disk, read back, renamed over the old one, which is kept.

Every checkpoint carries a hash of its content. Loading compares it and never runs code from the file; where the last
checkpoint is damaged, `load_latest` falls back on the one before it.
"""

import contextlib
import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from torch import Tensor

from repre.errors import RunError, UserError

FORMAT = 2
"""Version of the checkpoint's layout; raised when an older reader could not understand it."""


UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
              OverflowError, MemoryError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile,
              SafetensorError)  # fmt: skip
"""What torch raises at files that are damaged or not its own; it hands what ends in .safetensors to another library."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, keep: Path | None = None) -> None:
    """Lets `write` fill a file beside `path`, flushes it to the disk and renames it over `path`.

    A reader sees the old file or the new one, never a part, even after a power loss: the content is on the disk before
    the name points to it. Raises RunError, the old file intact, if the disk is full or the folder cannot be written.

    Args:
        keep: a second name for the old file, which replaces what had that name.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            _second_name(path, keep)
        os.replace(beside, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as RuntimeError
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunError(f"could not write {path}: {error}; what was saved before is intact") from error


def write_json(path: Path, content: Any) -> None:
    """Writes plain values as indented JSON, atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


def save_checkpoint(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Saves tensors and plain values atomically, with the format's version and the hash of the content; a checkpoint
    that cannot be read back does not replace the old one, which stays under the name `keep` besides."""
    body = {key: value for key, value in state.items() if key != "format"}
    content = {"format": FORMAT, **body, "sha256": content_hash(body)}

    def write(file: BinaryIO) -> None:
        torch.save(content, file)
        file.flush()
        _load(Path(file.name), torch.device("cpu"))

    try:
        write_atomically(path, write, keep=keep)
    except UserError as error:
        raise RunError(f"what was written to {path} could not be read back ({error}); the old one is intact") from error


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Loads what `save_checkpoint` wrote. Refuses damaged and foreign files with a UserError; runs no code from them."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        return _load(path, torch.device(device))
    except UserError as error:
        raise UserError(f"{error}; use another checkpoint, or start a new run with another --out") from error


def load_latest(
    path: Path, previous: Path, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], str | None] | None:
    """The checkpoint `path`, or `previous` where it is damaged or missing, with a word about that; None without both.

    Raises UserError where there are checkpoints but none can be read.
    """
    if not path.is_file() and not previous.is_file():
        return None
    try:
        return load_checkpoint(path, device=device), None
    except UserError as error:
        if not previous.is_file():
            raise
        return load_checkpoint(previous, device=device), f"{error}. Going on from {previous.name} instead"


def content_hash(state: Any) -> str:
    """SHA-256 of nested dictionaries and lists of tensors and plain values; where the tensors lie does not matter."""
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                take(item)
        elif isinstance(value, list | tuple):
            digest.update(f"[{len(value)}]".encode())
            for item in value:
                take(item)
        else:
            digest.update(repr(value).encode())

    take(state)
    return digest.hexdigest()


def check_archive(path: Path) -> None:
    """Refuses zip archives that unpack to more than they are: torch stores its tensors plainly."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(f"{path} is packed, to {unpacked} bytes: torch does not write such files; it is not opened")


def check_tensors(content: Any, path: Path) -> None:
    """Refuses tensors that claim to be larger than their file: a view of one number can stand for terabytes."""
    waiting, largest = [content], path.stat().st_size
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized:
                raise UserError(f"{path} holds a tensor of another layout ({value.layout}); it is not used")
            if value.numel() * value.element_size() > largest:
                raise UserError(f"{path} holds a tensor {list(value.shape)} larger than the file; it is not used")


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True)
        check_tensors(state, path)
    except UserError:
        raise
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint of repre ({reason[:120]})") from error
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise UserError(f"{path} is not a checkpoint of repre; weights of other origin go to --encoder.weights")
    if state["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {state['format']}, this version of repre reads up to {FORMAT}; upgrade repre"
        )
    wanted = state.pop("sha256", None)
    if wanted != content_hash({key: value for key, value in state.items() if key != "format"}):
        raise UserError(f"{path} is damaged: its content does not match its hash")
    return state


def _second_name(path: Path, keep: Path) -> None:
    """Gives the file a second name without a moment in which it has none; where the system has no links, it moves."""
    beside = keep.with_name(f".{keep.name}.partial")
    try:
        beside.unlink(missing_ok=True)
        os.link(path, beside)
        os.replace(beside, keep)
        beside.unlink(missing_ok=True)  # a rename between two names of one file does nothing
    except OSError:
        os.replace(path, keep)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable where the system allows to open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
