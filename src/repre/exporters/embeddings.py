"""Computes the features of many images and writes them to a file (`repre embed`).

Images are processed in parts, and each finished part is stored: the same call again continues after the last one. At the end
the parts are joined on disk, without holding all features in memory.

    N  images that can be read    B  images in a batch    D  embedding width    C, h, w  channels, height and width of a map
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.io.decode import UnreadableImage
from repre.data.io.file_choice import FileChoice
from repre.data.io.frame_notes import describe_several, noting_frames
from repre.data.io.sources import Source, describe_source, open_source, raw_name
from repre.data.io.value_ranges import check_values
from repre.data.labels.splits import source_identity
from repre.data.loading.loader import stack
from repre.data.loading.workers import in_workers, load_tracked
from repre.errors import UserError
from repre.evaluation.features import eval_transform
from repre.evaluation.options import DenseFeatures, RuntimeOptions
from repre.evaluation.share_check import check_image_is_shared, readable_image
from repre.exporters.data_map import MapOptions, write_map
from repre.exporters.feature_files import FeatureParts, check_format, join_parts
from repre.models.encoder import Encoder
from repre.models.resolve import resolve_encoder
from repre.models.transform import Transform
from repre.types import Canvases, Features
from repre.utils.amp import autocast
from repre.utils.folder_lock import writing
from repre.utils.image_size import Size
from repre.utils.io import json_hash
from repre.utils.pieces import Halving
from repre.utils.printable_text import printable, say
from repre.utils.progress import ItemCount
from repre.utils.together import check_others, my_share, of_rank, together

Kind = Literal["pooled", "patch", "pyramid"]
IMAGES_PER_PART: dict[Kind, int] = {"pooled": 2048, "patch": 128, "pyramid": 128}
"""Images of a part, whose features are in memory at once."""


@torch.no_grad()
def embed(
    spec: str,
    *,
    data: str | Sequence[str],
    out: Path,
    kind: Kind = "pooled",
    features: DenseFeatures = "normed",
    size: Size | None = None,
    half: bool = False,
    value_range: tuple[float, float] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    choice: FileChoice | None = None,
    runtime: RuntimeOptions | None = None,
    data_map: MapOptions | None = None,
    images_per_part: int | None = None,
    log: Callable[[str], object] = say,
) -> int:
    """Writes the features of all images of `data`; gives the number of images that could be read.

    A ``.npz`` file holds `paths` and `features` ([N, D] for pooled, [N, C, h, w] for patch), or `level_0`, `level_1`, ...
    for pyramid. A ``.parquet`` file has one row per image: `path`, and lists of numbers under the same names, with their
    shapes in the metadata of the file. Images that cannot be read are listed in ``OUT.unreadable.txt``.

    Args:
        spec: the encoder, in any way that `repre.models.resolve` lists.
        data: images, as for `repre pretrain --data`.
        choice: which files are used; None: all images.
        out: the file, .npz or .parquet.
        kind: the pooled embedding, the last feature map, or the feature maps of all levels.
        features: maps after the encoder's final norm, or raw from its blocks.
        size: side of the images in pixels, or (height, width); None uses the encoder's own.
        half: store float16 instead of float32.
        value_range: pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type.
        mean, std: of every channel, instead of what the weights expect.
        runtime: device, workers and batch size.
        data_map: also map the images by their pooled features (`repre.exporters.data_map`); None writes no map.
        images_per_part: how many images may have to be computed again after an interruption; None: `IMAGES_PER_PART`.
        log: prints a message for the user.

    Raises:
        UserError: no such encoder or images, no readable image, `out` cannot be written, or another process writes it.
        RunError: a worker process died, or the disk is full.
    """
    check_format(out)
    if kind not in get_args(Kind):
        raise UserError(f"--kind {kind}: choose pooled, patch or pyramid")
    if features not in get_args(DenseFeatures):
        raise UserError(f"--features {features}: choose normed or raw")
    if data_map is not None and kind != "pooled":
        raise UserError(f"--map needs one vector per image: leave out --kind {kind}")
    norm = kind != "pooled" and features == "normed"
    runtime, images_per_part = runtime or RuntimeOptions(), images_per_part or IMAGES_PER_PART[kind]
    resolved = resolve_encoder(spec).normalized(mean, std)
    encoder = resolved.build(image_size=size).to(runtime.torch_device).eval()
    transform = eval_transform(resolved, encoder, value_range=value_range)
    source = open_source(
        data,
        **transform.decoding(encoder.config.channels),
        choice=choice,
        labels=False,
    )
    check_values(source, transform.views.value_range, option="--value-range", flat_is_wrong=False)
    for line in describe_source(source)[1:]:
        log(line)
    settings = {
        "weights": resolved.fingerprint,
        "encoder": str(encoder.config),
        "data": [source.spec, source_identity(source)],
        "view": asdict(transform.views) | {"crop_pct": transform.crop_pct},
        "kind": kind,
        "norm": norm,
        "half": half,
        "precision": str(runtime.dtype),
        "images_per_part": images_per_part,
    }
    parts = FeatureParts(out.with_name(f"{out.name}.parts"), count=-(-len(source) // images_per_part))
    with writing(out):
        key = json_hash(settings)
        parts.open(key)
        together(
            runtime.torch_device,
            _compute_parts,
            encoder,
            source,
            parts,
            [number for number in range(parts.count) if not parts.is_finished(number)],
            key,
            images_per_part=images_per_part,
            shared=readable_image(source),
            transform=transform,
            kind=kind,
            norm=norm,
            half=half,
            runtime=runtime,
        )
        count = join_parts(parts, out)
        several = [(len(names), names[0]) for names in parts.texts("several_frames") if names]
        if several:
            log(describe_several(sum(number for number, _ in several), printable(several[0][1])))
        if data_map is not None:
            vectors = torch.from_numpy(np.concatenate([part.astype(np.float32) for part in parts.arrays("features")]))
            names = [*chain.from_iterable(parts.texts("names"))]
            load = partial(_load_pictures, source, names)
            write_map(vectors.to(runtime.torch_device), names, out, data_map, title=source.spec, load=load, log=log)
        shutil.rmtree(parts.folder)
    return count


@torch.no_grad()
def _compute_parts(
    encoder: Encoder,
    source: Source,
    parts: FeatureParts,
    missing: list[int],
    key: str,
    *,
    images_per_part: int,
    shared: int | None,
    transform: Transform,
    kind: Kind,
    norm: bool,
    half: bool,
    runtime: RuntimeOptions,
) -> None:
    """Computes and writes parts; of several ranks, each does its share.

    Args:
        missing: the parts.
        key: of the folder of the parts.
        shared: an image that rank 0 can read.

    Raises:
        UserError: a rank does not see the images or the parts, because it has another disk.
    """
    device, pieces = runtime.torch_device, Halving()
    dtype = np.float16 if half else np.float32
    if not parts.belong_to(key):
        raise UserError(
            f"rank 0 writes to {parts.folder}, which rank {my_share()[0]} does not see: --out must be on a shared disk"
        )
    check_image_is_shared(source, shared)

    def features_of(views: Tensor, rows: slice) -> dict[str, np.ndarray]:
        with autocast(device, runtime.dtype):
            selected = _select(encoder(views[rows], maps=kind != "pooled", norm=norm), kind)
        return {name: values.float().cpu().numpy().astype(dtype) for name, values in selected.items()}

    def extract(batch: _Batch) -> list[dict[str, np.ndarray]]:
        views = transform(batch.pixels.to(device, non_blocking=True), batch.sizes)
        return [*pieces(len(views), partial(features_of, views))]

    rank, ranks = my_share()
    spans = {
        number: range(number * images_per_part, min((number + 1) * images_per_part, len(source)))
        for number in missing[rank::ranks]
    }
    own = sum(map(len, spans.values()))
    total = len(source) if ranks == 1 else own
    with ItemCount(of_rank("embed"), total=total, initial=total - own, keep=True) as counter:
        for number, indices in spans.items():
            data_set = _DecodedBatches(source, indices, batch=runtime.batch)
            batches = in_workers(data_set, range(len(data_set)), workers=runtime.processes, pin=device.type == "cuda")
            arrays, texts = _collect(batches, extract, counter)
            parts.write(number, arrays, texts)


def _load_pictures(source: Source, names: list[str], wanted: list[int]) -> dict[int, np.ndarray]:
    """Pictures of some of the images that could be read, uint8 [h, w, 3] by index; only images of 1 or 3 channels have one.

    Args:
        names: of all images that could be read, in the order of the source.
        wanted: indices into `names`.
    """
    chosen, pictures, position = set(wanted), dict[int, np.ndarray](), 0
    with ItemCount("thumbnails", total=len(wanted)) as counter:
        for index in range(len(source)):
            if position == len(names) or raw_name(source, index) != names[position]:
                continue  # it could not be read
            if position in chosen:
                image = source.load(index)
                if image.shape[2] in (1, 3):
                    pictures[position] = _as_picture(image)
                counter.update()
            position += 1
    return pictures


def _as_picture(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] for people: uint8 [H, W, 3]; other types than uint8 are stretched to their range."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image.astype(np.float32) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image


def _collect(
    batches: Iterable["_Batch"], extract: Callable[["_Batch"], list[dict[str, np.ndarray]]], counter: ItemCount
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Gives the features of all readable images by name, and the texts of their part by kind, as in `_Batch`."""
    arrays: dict[str, list[np.ndarray]] = {}
    texts: dict[str, list[str]] = {"names": [], "failures": [], "several_frames": []}
    for batch in batches:
        check_others()
        for part in extract(batch) if batch.names else ():
            for name, values in part.items():
                arrays.setdefault(name, []).append(values)
        for kind, lines in texts.items():
            lines += getattr(batch, kind)
        counter.update(len(batch.names) + len(batch.failures))
    return {name: np.concatenate(pieces) for name, pieces in arrays.items()}, texts


def _select(features: Features, kind: Kind) -> dict[str, Tensor]:
    """Gives the tensors to store by their names in the file."""
    if kind == "pooled":
        return {"features": features.embedding}
    if kind == "patch":
        return {"features": features.maps[-1]}
    return {f"level_{level}": values for level, values in enumerate(features.maps)}


class _Batch(NamedTuple):
    """The readable images of a batch, and what could not be read."""

    pixels: Canvases
    """Images on a canvas of the largest one's side, [B, C, K, K]."""
    sizes: Tensor
    """Height and width of each, [B, 2]."""
    names: list[str]
    """Name of each."""
    failures: list[str]
    """Name and reason of each unreadable image, separated by a tab."""
    several_frames: list[str]
    """Name of each file of which only the first frame or page was used."""


class _DecodedBatches(Dataset[_Batch]):
    """Item t is batch t of some images of a source; it has fewer images where some cannot be read."""

    def __init__(self, source: Source, indices: range, *, batch: int) -> None:
        self.source, self.indices, self.batch = source, indices, batch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, number: int) -> _Batch:
        images, names, failures, several = [], [], [], []
        for index in self.indices[number * self.batch : (number + 1) * self.batch]:
            name = raw_name(self.source, index)
            try:
                with noting_frames() as note:
                    images.append(load_tracked(self.source, index))
                names.append(name)
                several += [name] if note.several else []
            except UnreadableImage as error:
                failures.append(f"{printable(name)}\t{error}")
        if not images:
            return _Batch(torch.empty(0), torch.empty(0), names, failures, several)
        return _Batch(*stack(images), names, failures, several)
