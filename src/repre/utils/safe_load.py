"""Reads files of tensors that may come from a stranger: runs no code from them and allocates no more than they hold."""

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from repre.errors import UserError

UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What torch and safetensors raise on files that are damaged or in another format."""


BYSTANDERS = (
    "argparse.Namespace",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")  # the second in Python 3.13
        for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""Objects that training scripts save beside the weights: options, paths, numbers and arrays of numpy."""


class Ignored:
    """Stands for an object that is not needed: takes what its pickle gives and keeps nothing."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_tensors(path: Path, *, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote: nested dictionaries and lists of tensors and plain values.

    An `Ignored` takes the place of every object of `BYSTANDERS`, whose own code does not run.

    Raises:
        UserError: the file claims to hold more than it can.
        pickle.UnpicklingError: it holds objects other than tensors and plain values; their code is never run.
        Exception: one of `UNREADABLE` where it is damaged.
    """
    _check_archive(path)
    with torch.serialization.safe_globals([(Ignored, name) for name in BYSTANDERS]):
        state = torch.load(path, map_location=device, weights_only=True)
    _check_tensors(state, path)
    return state


def content_hash(state: Any, *, load: Callable[[Tensor], Tensor] | None = None) -> str:
    """SHA-256 of nested dictionaries and lists of tensors and plain values, whatever device the tensors are on.

    Args:
        load: gives the values of a tensor that has none itself, one after another in their order.
    """
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            value = value if load is None else load(value)
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


def _check_archive(path: Path) -> None:
    """Refuses zip archives that unpack to more than they are: torch stores its tensors uncompressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(
                f"{path} is compressed, to {unpacked} bytes: torch does not write such files; it is not opened"
            )


def _check_tensors(content: Any, path: Path) -> None:
    """Refuses tensors that claim to be larger than their file: a view of one number can stand for terabytes."""
    waiting, largest = [content], path.stat().st_size
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) not in seen:  # a container may hold itself
                seen.add(id(value))
                waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_quantized:
                raise UserError(f"{path} holds a tensor of another layout ({value.layout}); it is not used")
            if value.numel() * value.element_size() > largest:
                raise UserError(f"{path} holds a tensor {list(value.shape)} larger than the file; it is not used")
