"""Files of strangers: pickles that run code, archives that unpack without end, names that climb out of the folder."""

import gzip
import json
import pickle
import random
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from repre.config import load_yaml
from repre.data.io.sources import open_source
from repre.data.loading.manifest import apply_manifest
from repre.errors import UserError
from repre.models.weights import read_weights
from repre.training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from tests.faults.common import Row, live, small


class Hostile:
    """A pickle of this touches a file when it is loaded by whoever trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    yield damaged(folder, times=40 if short else 1000)
    mark = folder / "code-ran"
    files = _hostile(folder, mark)
    refused, words = Counter[str](), []
    for path in files:
        for name, load in (("checkpoint", load_checkpoint), ("start weights", read_weights)):
            try:
                load(path)
            except UserError as error:
                refused[name] += 1
                words.append(str(error).replace(str(folder), "..."))
    tried = 2 * len(files)
    yield Row(
        "Strangers",
        "pickles that run code, packed and endless archives, tensors larger than their file; as checkpoint, as weights",
        tried,
        f"{sum(refused.values())} refused with a reason, code ran {int(mark.exists())} times",
        "nothing",
        sum(refused.values()) == tried and not mark.exists(),
        details={"words": words},
    )
    yield climbing(folder)


def damaged(folder: Path, *, times: int) -> Row:
    """A real checkpoint, cut or with flipped bytes: the one before is used and the damage reported."""
    config = small(folder / "run")
    assert live(config, folder)[0] == 0
    last, previous = folder / "last.pt", folder / "previous.pt"
    state = load_checkpoint(Path(config.out) / "checkpoints/last.pt")
    for step in (1, 2):
        save_checkpoint(last, {**state, "step": step}, backup=previous)
    whole, draw, found = last.read_bytes(), random.Random(4), Counter[str]()
    for number in range(times):
        content = bytearray(whole)
        if number % 4 == 0:
            content = content[: draw.randrange(len(whole))]
        else:
            for _ in range(draw.choice([1, 1, 16, 4096])):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        last.write_bytes(bytes(content))
        loaded = load_latest(last, previous)
        if loaded is not None and loaded[1] is not None and loaded[0]["step"] == 1:
            found["before"] += 1
        elif loaded is not None and loaded[0]["step"] == 2 and _same(loaded[0], state):
            found["harmless"] += 1
        else:
            found["wrong"] += 1
    return Row(
        "Checkpoint",
        "cut anywhere, or with 1 to 4096 flipped bits",
        times,
        f"{found['before']} reported and the one before used, {found['harmless']} changed only unused bytes and "
        f"loaded equal, {found['wrong']} loaded something else",
        "at most what one checkpoint adds" if not found["wrong"] else "weights",
        not found["wrong"] and found["before"] > times // 2,
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


def _hostile(folder: Path, mark: Path) -> list[Path]:
    made = []

    def add(name: str, write: Callable[[Path], object]) -> None:
        path = folder / name
        write(path)
        made.append(path)

    add("saved.pt", lambda p: torch.save({"format": 2, "model": Hostile(mark)}, p))
    add("plain.pt", lambda p: p.write_bytes(pickle.dumps({"model": Hostile(mark)})))
    add("protocol0.pth", lambda p: p.write_bytes(pickle.dumps(Hostile(mark), protocol=0)))
    add("old.pt", lambda p: torch.save({"w": Hostile(mark)}, p, _use_new_zipfile_serialization=False))
    add("bomb.pt", lambda p: _zip(p, {"archive/data.pkl": bytes(300_000_000)}))
    add("many.pt", lambda p: _zip(p, {f"archive/data/{i}": bytes(10_000_000) for i in range(20)}))
    add("climbing.pt", lambda p: _zip(p, {"../../evil.py": b"x" * 100}, zipfile.ZIP_STORED))
    add("view.pt", lambda p: torch.save({"format": 2, "w": torch.zeros(1).expand(10**12)}, p))
    add("header.safetensors", lambda p: p.write_bytes(struct.pack("<Q", 2**60) + b"{}"))
    add("claims.safetensors", lambda p: p.write_bytes(_claiming()))
    add("pickled.safetensors", lambda p: p.write_bytes(pickle.dumps(Hostile(mark))))
    return made


def _zip(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _claiming() -> bytes:
    """A safetensors file whose header claims a terabyte."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9, 256], "data_offsets": [0, 1024 * 10**9]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def climbing(folder: Path) -> Row:
    """Names that lead out of where they belong, and configs that are more than values."""
    data = folder / "photos"
    texts = {
        "object": "data: !!python/object/apply:os.system [exit]\n",
        "references": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "depth": "[" * 5000,
        "timm path": "encoder: {model_args: {checkpoint_path: /etc/passwd}}\n",
        "timm overlay": "encoder: {model_args: {pretrained_cfg_overlay: {file: x}}}\n",
    }
    refused = 0
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
        refused += _refused(lambda name=name: load_yaml(folder / f"{name}.yaml"))  # type: ignore[misc]
    lists = [b"1\0../secret.png", b"1\0/etc/passwd", b"1\0a/../../b.png"]
    for content in lists:
        (folder / "files.gz").write_bytes(gzip.compress(content))
        refused += _refused(lambda: apply_manifest(open_source(str(data)), folder / "files.gz"))
    save_file({"w": torch.zeros(2)}, folder / "fine.safetensors")
    assert list(read_weights(folder / "fine.safetensors")) == ["w"]
    total = len(texts) + len(lists)
    return Row(
        "Strangers",
        "configs with objects, references or paths for timm; lists of files that climb out of the data",
        total,
        f"{refused} refused with a reason",
        "nothing",
        refused == total,
    )


def _refused(load: Callable[[], object]) -> bool:
    try:
        load()
    except UserError:
        return True
    return False
