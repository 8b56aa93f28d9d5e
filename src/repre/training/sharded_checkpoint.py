"""Writes the checkpoint of a run whose weights are split over processes, with one whole tensor in memory at a time.

The file is that of `save_checkpoint`. torch lays it out with empty places for the tensors. Then the main process gathers one
tensor after another, writes it into its place and forgets it; the others send their parts and hold nothing more.
"""

import secrets
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from repre.errors import UserError
from repre.training.checkpoint import FORMAT, replace_checkpoint
from repre.utils.dist import is_main_process
from repre.utils.fsdp import full_tensors
from repre.utils.safe_load import content_hash


def save_sharded_checkpoint(
    path: Path,
    state: dict[str, Any],
    *,
    first: Callable[[], object] = lambda: None,
    backup: Path | None = None,
) -> None:
    """Saves tensors, parts of tensors and plain values as `save_checkpoint` saves whole ones; a collective call.

    Args:
        first: called on the main process before.

    Raises:
        RunError: on the main process; see `save_checkpoint`.
    """
    waiting = deque(_tensors(state))

    def gather() -> Tensor | None:
        whole: Tensor | None = full_tensors(waiting.popleft())
        return whole

    try:
        if is_main_process():
            first()
            replace_checkpoint(path, lambda file: _write(file, state, gather), backup=backup)
    finally:  # whatever happened on the main process, the others send all
        while waiting:
            gather()


def _write(file: BinaryIO, state: dict[str, Any], gather: Callable[[], Tensor | None]) -> None:
    """Writes a checkpoint, and reads it back.

    Args:
        gather: gives the next tensor of the state as a whole.

    Raises:
        UserError: the file does not hold what was written.
    """
    mark = secrets.token_hex(32)  # stands in the file until the hash is known
    with torch.serialization.skip_data():
        torch.save({"format": FORMAT, **_emptied(state), "sha256": mark}, file)
    file.flush()
    hash_place, places = _layout(Path(file.name), mark)
    with open(file.name, "r+b") as archive:
        order = iter(places)

        def store(_: Tensor) -> Tensor:
            whole = gather()
            assert whole is not None, "this is the main process"
            whole = whole.detach().cpu().contiguous()
            archive.seek(next(order))
            archive.write(_bytes_of(whole))
            return whole

        digest = content_hash(state, load=store)
        archive.seek(hash_place)
        archive.write(digest.encode())
        archive.flush()
        again = iter(places)

        def read_back(tensor: Tensor) -> Tensor:
            whole = torch.empty(tensor.shape, dtype=tensor.dtype)
            archive.seek(next(again))
            archive.readinto(_bytes_of(whole))
            return whole

        if content_hash(state, load=read_back) != digest:
            raise UserError("it does not hold what was written")


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested dictionaries, lists and tuples, in the order in which torch stores them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _emptied(value: Any) -> Any:
    """The same structure with tensors of the same shapes that nobody has written to, so that they take no memory."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: _emptied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_emptied(item) for item in value)
    return value


def _layout(path: Path, mark: str) -> tuple[int, list[int]]:
    """Where a file of torch has the text `mark`, and where its tensors, in the order in which torch stored them."""
    places = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)  # of a local header: the lengths of name and extra field
            lengths = file.read(4)
            begin = (
                entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            )
            _, _, name = entry.filename.partition("/")
            places[name] = begin
            if name == "data.pkl":
                file.seek(begin)
                hash_place = begin + file.read(entry.file_size).index(mark.encode())
    numbers = sorted(int(name.removeprefix("data/")) for name in places if name.startswith("data/"))
    return hash_place, [places[f"data/{number}"] for number in numbers]


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.flatten().view(torch.uint8).numpy().data
