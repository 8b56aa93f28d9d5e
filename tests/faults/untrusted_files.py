"""Files from strangers: pickles that run code, archives that unpack without end, names that leave their folder."""

import json
import pickle
import random
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from repre.config import load_yaml
from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.io.sources import open_source
from repre.data.loading.manifest import apply_manifest, write_manifest
from repre.errors import UserError
from repre.models.weight_files import read_weights
from repre.training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from tests.faults.common import Row, reference_run


class RunsCode:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    yield _damaged_checkpoints(folder, times=10 if short else 1000)
    yield _hostile_weights(folder)
    yield _hostile_configs_and_manifests(folder)


def _damaged_checkpoints(folder: Path, *, times: int) -> Row:
    """Cuts a real checkpoint or flips bits in it: the previous one must be used and the damage reported."""
    config = reference_run(folder / "run")
    last, previous = folder / "last.pt", folder / "previous.pt"
    state = load_checkpoint(Path(config.out) / "checkpoints/last.pt")
    for step in (1, 2):
        save_checkpoint(last, {**state, "step": step}, backup=previous)
    content, rng, outcomes = last.read_bytes(), random.Random(4), Counter[str]()
    for number in range(times):
        damaged = bytearray(content)
        if number % 4 == 0:
            damaged = damaged[: rng.randrange(len(content))]
        else:
            for _ in range(rng.choice([1, 1, 16, 4096])):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        last.write_bytes(bytes(damaged))
        loaded = load_latest(last, previous)
        if loaded is not None and loaded[1] is not None and loaded[0]["step"] == 1:
            outcomes["previous"] += 1
        elif loaded is not None and loaded[0]["step"] == 2 and _same_weights(loaded[0], state):
            outcomes["harmless"] += 1
        else:
            outcomes["wrong"] += 1
    return Row(
        "Checkpoint",
        "cut at a random place, or with 1 to 4096 flipped bits",
        times,
        f"{outcomes['previous']} reported and the previous one used, {outcomes['harmless']} changed only in unused bytes "
        f"and loaded with equal weights, {outcomes['wrong']} loaded with other weights",
        "at most the work since the previous checkpoint" if not outcomes["wrong"] else "weights",
        not outcomes["wrong"] and outcomes["previous"] > times // 2,
    )


def _same_weights(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())


def _hostile_weights(folder: Path) -> Row:
    """Loads every hostile file as a checkpoint and as weights."""
    created = folder / "code-ran"
    paths = _write_hostile_weights(folder, created)
    messages = []
    for path in paths:
        for load in (load_checkpoint, read_weights):
            if (message := _refusal(partial(load, path))) is not None:
                messages.append(message.replace(str(folder), "..."))
    total = 2 * len(paths)
    return Row(
        "Untrusted files",
        "pickles that run code, compressed and endless archives, tensors larger than their file; as checkpoint, as weights",
        total,
        f"{len(messages)} refused with a reason, code ran {int(created.exists())} times",
        "nothing",
        len(messages) == total and not created.exists(),
        details={"messages": messages},
    )


def _write_hostile_weights(folder: Path, created: Path) -> list[Path]:
    """Writes hostile files; code in them creates the file `created`."""
    code = RunsCode(created)
    writers: dict[str, Callable[[Path], object]] = {
        "saved.pt": lambda p: torch.save({"format": 2, "model": code}, p),
        "plain.pt": lambda p: p.write_bytes(pickle.dumps({"model": code})),
        "protocol0.pth": lambda p: p.write_bytes(pickle.dumps(code, protocol=0)),
        "old.pt": lambda p: torch.save({"w": code}, p, _use_new_zipfile_serialization=False),
        "bomb.pt": lambda p: _write_zip(p, {"archive/data.pkl": bytes(300_000_000)}),
        "many.pt": lambda p: _write_zip(p, {f"archive/data/{i}": bytes(10_000_000) for i in range(20)}),
        "climbing.pt": lambda p: _write_zip(p, {"../../evil.py": b"x" * 100}, zipfile.ZIP_STORED),
        "view.pt": lambda p: torch.save({"format": 2, "w": torch.zeros(1).expand(10**12)}, p),
        "header.safetensors": lambda p: p.write_bytes(struct.pack("<Q", 2**60) + b"{}"),
        "claims.safetensors": lambda p: p.write_bytes(_terabyte_header()),
        "pickled.safetensors": lambda p: p.write_bytes(pickle.dumps(code)),
    }
    for name, write in writers.items():
        write(folder / name)
    return [folder / name for name in writers]


def _write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _terabyte_header() -> bytes:
    """A safetensors file whose header claims a terabyte."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9, 256], "data_offsets": [0, 1024 * 10**9]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def _hostile_configs_and_manifests(folder: Path) -> Row:
    """Loads configs that are more than plain values, and lists of files that point outside the data."""
    data = folder / "photos"
    configs = {
        "object": "data: !!python/object/apply:os.system [exit]\n",
        "references": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "depth": "[" * 5000,
        "timm path": "encoder: {model_args: {checkpoint_path: /etc/passwd}}\n",
        "timm overlay": "encoder: {model_args: {pretrained_cfg_overlay: {file: x}}}\n",
    }
    messages = []
    for name, text in configs.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
        messages.append(_refusal(partial(load_yaml, path)))
    (folder / "secret.png").write_bytes(next(data.glob("*.png")).read_bytes())
    for name in ("../secret.png", str(folder / "secret.png"), "a/../../secret.png"):
        listed = FileSource(str(data), LocalFiles(data, Names.of([name])), channels=3, canvas=None)
        write_manifest(listed, folder / "files.gz")
        source, _ = apply_manifest(open_source(str(data)), folder / "files.gz")
        messages.append(_refusal(partial(source.load, 0)))
    save_file({"w": torch.zeros(2)}, folder / "fine.safetensors")
    assert list(read_weights(folder / "fine.safetensors").tensors) == ["w"]
    refused = sum(message is not None for message in messages)
    return Row(
        "Untrusted files",
        "configs with objects, references or paths for timm; lists of files that point outside the data",
        len(messages),
        f"{refused} refused with a reason",
        "nothing",
        refused == len(messages),
    )


def _refusal(load: Callable[[], object]) -> str | None:
    """Returns the message of the error that `load` raises; None if it raises none."""
    try:
        load()
    except (UserError, UnreadableImage) as error:
        return str(error)
    return None
