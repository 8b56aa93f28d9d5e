"""Features of many images in a file: pooled, of every patch, or of every level, with the name of each image.

Images are embedded in parts, each written to the disk; an interrupted call given again goes on with the next part, and
at the end the parts are joined without being held in memory together.

    N  images that could be read    D  width of the embedding    C_l, h_l, w_l  map of level l
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source, open_source
from repre.data.loading.loader import stack
from repre.data.loading.workers import in_workers, load_tracked
from repre.data.views.render import center_view
from repre.errors import UserError
from repre.evaluation.features import Transform, eval_transform
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.models.resolve import resolve_encoder
from repre.utils.amp import autocast
from repre.utils.io import json_hash, write_atomically, write_json

PART = 2048
"""Images of one part."""
Kind = Literal["pooled", "patch", "pyramid"]
Array = np.ndarray


@torch.no_grad()
def embed(
    spec: str,
    *,
    data: str,
    out: Path,
    kind: Kind = "pooled",
    size: int | None = None,
    half: bool = False,
    value_range: tuple[float, float] | None = None,
    runtime: RuntimeOptions | None = None,
    part: int = PART,
) -> int:
    """Writes the features of all images of `data` and gives how many there are.

    ``.npz`` holds `paths` and `features`: [N, D] pooled, [N, C, h, w] patch; for pyramid `level_0`, `level_1`, ... instead.
    ``.parquet`` has a row for every image: `path`, and lists of numbers under the same names, with their shapes in the
    file's metadata. Images that cannot be read are left out and listed in OUT.unreadable.txt.

    Args:
        spec: an encoder, see `repre.models.resolve`.
        data: images, as `repre pretrain --data` takes them.
        size: side of the images in pixels; None takes the encoder's own.
        half: float16 instead of float32.
        value_range: pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the
            files' type.

    Raises:
        UserError: no such encoder or images, none can be read, or `out` cannot be written.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out {out}: write features.npz or features.parquet")
    if kind not in ("pooled", "patch", "pyramid"):
        raise UserError(f"--kind {kind}: choose pooled, patch or pyramid")
    if out.suffix == ".parquet":
        _arrow()
    runtime = runtime or RuntimeOptions()
    start = resolve_encoder(spec)
    encoder = start.build(image_size=size).to(runtime.torch_device).eval()
    transform = eval_transform(start, encoder, value_range=value_range)
    source = open_source(data, channels=encoder.config.channels, canvas=transform.canvas)
    parts = out.with_name(f"{out.name}.parts")
    made_of: dict[str, Any] = {
        "weights": start.fingerprint,
        "encoder": str(encoder.config),
        "data": _identity(source),
        "view": asdict(transform.views) | {"crop_pct": transform.crop_pct},
        "kind": kind,
        "half": half,
        "precision": str(runtime.dtype),
        "part": part,
    }
    key = json_hash(made_of)
    _prepare(parts, key)
    total = -(-len(source) // part)
    waiting = [number for number in range(total) if not (parts / f"{number:06d}.done").is_file()]
    bar = tqdm(total=len(source), initial=(total - len(waiting)) * part, desc="embed", unit="image", disable=None)
    for number in waiting:
        rows = range(number * part, min((number + 1) * part, len(source)))
        _embed_part(parts, number, rows, source, encoder, transform, kind=kind, half=half, runtime=runtime, bar=bar)
    bar.close()
    count = _join(parts, total, out)
    shutil.rmtree(parts)
    return count


def _prepare(parts: Path, key: str) -> None:
    """Goes on with the parts of the same call; those of another one are removed."""
    note = parts / "key.txt"
    try:
        if not note.is_file() or note.read_text() != key:
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)
            note.write_text(key)
    except OSError as error:
        raise UserError(f"--out: {parts.parent} cannot be written ({error.strerror})") from error


class _Decoded(Dataset[tuple[int, Array | str]]):
    """Image, or the reason why there is none, by place."""

    def __init__(self, source: Source, rows: range) -> None:
        self.source, self.rows = source, rows

    def __getitem__(self, place: int) -> tuple[int, Array | str]:
        index = self.rows[place]
        try:
            return index, load_tracked(self.source, index)
        except UnreadableImage as error:
            return index, str(error)


def _embed_part(
    parts: Path,
    number: int,
    rows: range,
    source: Source,
    encoder: Encoder,
    transform: Transform,
    *,
    kind: Kind,
    half: bool,
    runtime: RuntimeOptions,
    bar: "tqdm[Any]",
) -> None:
    """Writes the arrays, the names and the failures of one part, then a mark that it is whole."""
    found: dict[str, list[Array]] = {}
    names: list[str] = []
    failures: list[str] = []
    batch: list[Array] = []

    def flush() -> None:
        if batch:
            for name, values in _features(batch, encoder, transform, kind, runtime).items():
                found.setdefault(name, []).append(values.astype(np.float16) if half else values)
            batch.clear()

    for index, image in in_workers(_Decoded(source, rows), range(len(rows)), workers=runtime.processes):
        bar.update(1)
        if isinstance(image, str):
            failures.append(f"{source.describe(index)}\t{image}")
            continue
        names.append(source.describe(index))
        batch.append(image)
        if len(batch) == runtime.batch:
            flush()
    flush()
    stem = parts / f"{number:06d}"
    for name, pieces in found.items():
        joined = np.concatenate(pieces)
        write_atomically(stem.with_suffix(f".{name}.npy"), partial(_save, joined))
    write_json(stem.with_suffix(".names.json"), {"names": names, "failures": failures})
    stem.with_suffix(".done").touch()


def _save(values: Array, file: BinaryIO) -> None:
    np.save(file, values)


def _features(
    images: list[Array], encoder: Encoder, transform: Transform, kind: Kind, runtime: RuntimeOptions
) -> dict[str, Array]:
    canvas = max(max(image.shape[:2]) for image in images)
    pixels, sizes = stack(images, canvas=canvas, keep_values=transform.views.value_range is not None)
    device = runtime.torch_device
    views = center_view(
        pixels.to(device), sizes, size=transform.views.size, config=transform.views, crop_pct=transform.crop_pct
    )
    with autocast(device, runtime.dtype):
        features = encoder(views, maps=kind != "pooled")
    tensors: dict[str, Tensor] = {"features": features.embedding}
    if kind == "patch":
        tensors = {"features": features.maps[-1]}
    elif kind == "pyramid":
        tensors = {f"level_{place}": level for place, level in enumerate(features.maps)}
    return {name: value.float().cpu().numpy() for name, value in tensors.items()}


def _identity(source: Source) -> list[Any]:
    """What the images are: their names in order, with sizes and times of change where they are files."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        name = source.describe(index)
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        path = Path(name)
        if path.is_file():
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
    return [source.spec, len(source), digest.hexdigest()]


# ------------------------------------------------------------------------------------------------------- joining


def _join(parts: Path, total: int, out: Path) -> int:
    notes = [json.loads((parts / f"{number:06d}.names.json").read_text(encoding="utf-8")) for number in range(total)]
    names = [name for note in notes for name in note["names"]]
    failures = [line for note in notes for line in note["failures"]]
    if failures:
        listed = "\n".join(failures) + "\n"
        write_atomically(
            out.with_name(f"{out.name}.unreadable.txt"),
            lambda file: file.write(listed.encode("utf-8", "surrogateescape")),
        )
    if not names:
        raise UserError(f"none of {len(failures)} images can be read; the first: {failures[0] if failures else ''}")
    kinds = sorted({path.name.split(".")[1] for path in parts.glob("*.npy")})
    (_write_npz if out.suffix == ".npz" else _write_parquet)(parts, total, out, names, kinds)
    return len(names)


def _pieces(parts: Path, total: int, kind: str) -> Iterator[Array]:
    for number in range(total):
        path = parts / f"{number:06d}.{kind}.npy"
        if path.is_file():  # a part may have no readable image
            yield np.load(path, mmap_mode="r")


def _write_npz(parts: Path, total: int, out: Path, names: list[str], kinds: list[str]) -> None:
    files: dict[str, Path] = {}
    for kind in kinds:
        first = next(_pieces(parts, total, kind))
        files[kind] = parts / f"whole.{kind}"
        whole = np.lib.format.open_memmap(
            files[kind], mode="w+", dtype=first.dtype, shape=(len(names), *first.shape[1:])
        )
        start = 0
        for piece in _pieces(parts, total, kind):
            whole[start : start + len(piece)] = piece
            start += len(piece)
        whole.flush()
        del whole
    files["paths"] = parts / "whole.paths"
    with open(files["paths"], "wb") as file:
        np.save(file, np.array([_text(name) for name in names]))

    def pack(target: Any) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, path in files.items():
                archive.write(path, f"{name}.npy")

    write_atomically(out, pack)


def _write_parquet(parts: Path, total: int, out: Path, names: list[str], kinds: list[str]) -> None:
    arrow, parquet = _arrow()
    shapes = {kind: list(next(_pieces(parts, total, kind)).shape[1:]) for kind in kinds}
    number = {"float32": arrow.float32(), "float16": arrow.float16()}
    fields = [("path", arrow.string())]
    fields += [(kind, arrow.list_(number[str(next(_pieces(parts, total, kind)).dtype)])) for kind in kinds]
    schema = arrow.schema(fields, metadata={"shapes": json.dumps(shapes)})

    def pack(target: Any) -> None:
        start = 0
        with parquet.ParquetWriter(target, schema) as writer:
            for pieces in zip(*(_pieces(parts, total, kind) for kind in kinds)):
                count = len(pieces[0])
                columns = [arrow.array([_text(name) for name in names[start : start + count]])]
                for piece, field in zip(pieces, list(schema)[1:]):
                    flat = np.ascontiguousarray(piece).reshape(-1)
                    ends = np.arange(count + 1, dtype=np.int32) * (flat.size // count)
                    columns.append(arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(flat)).cast(field.type))
                writer.write_table(arrow.table(columns, schema=schema))
                start += count

    write_atomically(out, pack)


def _text(name: str) -> str:
    """A name of a file with what is not UTF-8 in it replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: pip install 'repre[parquet]'; or write .npz") from error
    return pyarrow, pyarrow.parquet
