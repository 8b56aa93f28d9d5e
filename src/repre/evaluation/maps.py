"""The maps of a frozen encoder for every window of a data set, computed once and cached on disk.

A cache entry is a folder whose name is a hash of everything that defines it: weights, data, windows, normalization,
levels and their norm, precision. It is written under a hidden name and renamed when it is complete, so a reader never
sees a part.

    <cache>/maps/5f0c.../level-0.f16   float16 [N, C_l, H_l, W_l], raw
                         masks.u8      uint8 [N, S, S], raw; or depth.f32, float32
                         index.json    shapes, and the windows of every image

    N  windows of all images    n  some windows    S  side of a window    C_l, H_l, W_l  map of level l
"""

import atexit
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import Plan, Windows, WindowsConfig, WindowSet
from repre.data.loading.workers import in_workers
from repre.data.views.color import normalize
from repre.errors import RunError, UserError
from repre.evaluation.feature_cache import evict, go_on_without, mark_used
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.io import cache_home, json_hash, write_json
from repre.utils.os_errors import reason_of
from repre.utils.pieces import Halving
from repre.utils.progress import track
from repre.utils.safe_load import content_hash

FORMAT = 1
"""Version of the layout and of how maps are computed; entries of other versions are not used."""
FLOAT16_MAX = 65504.0
STALE_SECONDS = 24 * 3600
"""A part of an entry that is older than this belongs to a process that was killed."""


@dataclass(frozen=True)
class CachedMaps:
    """The maps of a data set. The arrays stay on disk; only what is indexed is read.

    Attributes:
        levels: float16 [N, C_l, H_l, W_l] per level.
        masks: uint8 [N, S, S]; or depth, float32.
        first: the first window of every image, and N; int64 [images + 1].
        plans: positions of the windows of every image.
    """

    levels: Sequence[np.ndarray]
    masks: np.ndarray
    first: np.ndarray
    plans: list[Plan]

    def windows(self, images: list[int]) -> np.ndarray:
        """Returns the indices of the windows of some images, int64 [n]."""
        return np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in images])

    def read(self, windows: np.ndarray, device: torch.device) -> list[Tensor]:
        """Returns the maps of some windows, float32 [n, C_l, H_l, W_l] per level, on the device."""
        return [torch.from_numpy(level[windows]).to(device).float() for level in self.levels]


def window_side(encoder: Encoder) -> int:
    """Side of the square windows that an encoder takes; raises UserError if its images are not square."""
    height, width = encoder.image_size
    if height != width:
        raise UserError(
            f"the encoder takes images of {height} x {width} pixels; give the side of square windows: --size "
            f"{min(height, width)}"
        )
    return height


def cached_maps(
    encoder: Encoder,
    source: MaskSource,
    config: WindowsConfig,
    *,
    mean: Tensor,
    std: Tensor,
    levels: list[int],
    norm: bool,
    runtime: RuntimeOptions,
) -> CachedMaps:
    """Returns the maps of every image of `source`, from the cache if they are there.

    Args:
        encoder: computes the maps.
        source: images and masks.
        config: how the images are cut into windows.
        mean, std: normalization, [C, 1, 1].
        levels: indices of the encoder's maps to cache.
        norm: whether they come after the encoder's final norm.
        runtime: device, precision, batch, workers and cache.

    Raises:
        UserError: an image or a mask cannot be read.
        RunError: the maps are not finite, or neither the cache nor the temporary folder can be written.
    """
    content = {
        "format": FORMAT,
        "model": asdict(replace(encoder.config, weights=None, drop_path=0.0, grad_checkpointing=False)),
        "image_size": encoder.image_size,
        "weights": content_hash(encoder.state_dict()),
        "data": source.fingerprint(),
        "classes": len(source.classes),
        "windows": asdict(config),
        "statistics": [mean.flatten().tolist(), std.flatten().tolist()],
        "levels": [encoder.out_indices[level] for level in levels],
        "norm": norm,
        "precision": str(runtime.dtype),
        "device": runtime.torch_device.type,
    }
    key = json_hash(content, length=32)
    root = runtime.cache or cache_home()
    write = partial(
        _write,
        encoder=encoder,
        source=source,
        config=config,
        mean=mean,
        std=std,
        levels=levels,
        norm=norm,
        runtime=runtime,
    )
    try:
        if not (root / "maps" / key / "index.json").is_file():
            _fill(root / "maps" / key, write)
            evict(root, max_gib=runtime.cache_gib, keep=root / "maps" / key)
        return _open(root / "maps" / key)
    except (OSError, RunError) as error:
        if isinstance(error, RunError) and error.kind != "disk":
            raise
        go_on_without(root, error)
    temporary = Path(tempfile.gettempdir())
    try:
        temporary = Path(tempfile.mkdtemp(prefix="repre-maps-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        _fill(temporary / "maps", write)
        return _open(temporary / "maps")
    except OSError as error:
        raise RunError(
            f"the maps of {source.spec} cannot be written to {root} or {temporary} ({reason_of(error)}); free some space, "
            "or name another folder with --runtime.cache",
            kind="disk",
        ) from error


def _fill(folder: Path, write: Callable[[Path], None]) -> None:
    """Makes the folder of an entry, whole or not at all."""
    _remove_stale_parts(folder)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        part.mkdir(parents=True)
        write(part)
        try:
            part.rename(folder)
        except OSError:
            if not (folder / "index.json").is_file():  # another process may have been faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@torch.no_grad()
def _write(
    folder: Path,
    encoder: Encoder,
    source: MaskSource,
    config: WindowsConfig,
    *,
    mean: Tensor,
    std: Tensor,
    levels: list[int],
    norm: bool,
    runtime: RuntimeOptions,
) -> None:
    """Computes the maps and fills the folder of an entry."""
    device = runtime.torch_device
    encoder, pieces = encoder.to(device).eval(), Halving()
    plans: list[dict[str, Any]] = []
    shapes: list[list[int]] = []
    count = 0

    def maps_of(images: Tensor, rows: slice) -> list[Tensor]:
        with autocast(device, runtime.dtype):
            maps = encoder(images[rows], norm=norm).maps
        if not all(bool(maps[level].isfinite().all()) for level in levels):
            raise RunError(f"the maps of {source.spec} are not finite; the encoder's weights are broken")
        return [maps[level].float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu() for level in levels]

    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"level-{index}.f16", "wb")) for index in range(len(levels))]
        depth = source.load(0)[1].dtype == np.float32
        masks = stack.enter_context(open(folder / ("depth.f32" if depth else "masks.u8"), "wb"))
        for batch in window_batches(source, config, mean=mean, runtime=runtime, description="maps"):
            images = torch.cat([to_input(windows.pixels, mean=mean, std=std, device=device) for windows in batch])
            stored = [torch.cat(level) for level in zip(*pieces(len(images), partial(maps_of, images)))]
            for file, level in zip(files, stored):
                file.write(level.numpy().tobytes())
            for windows in batch:
                masks.write(windows.masks.numpy().tobytes())
                plans.append({"grid": windows.plan.grid, "offsets": windows.plan.offsets})
            shapes = [list(level.shape[1:]) for level in stored]
            count += len(images)
    write_json(folder / "index.json", {"windows": count, "size": config.size, "shapes": shapes, "plans": plans})


def _open(folder: Path) -> CachedMaps:
    """Opens a complete entry and marks it as used."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    count, size = index["windows"], index["size"]
    mark_used(folder)
    plans = [
        Plan(tuple(plan["grid"]), tuple((top, left) for top, left in plan["offsets"]), size) for plan in index["plans"]
    ]
    levels = [
        np.memmap(folder / f"level-{number}.f16", dtype=np.float16, mode="r", shape=(count, *shape))
        for number, shape in enumerate(index["shapes"])
    ]
    depth = (folder / "depth.f32").is_file()
    name, dtype = ("depth.f32", np.float32) if depth else ("masks.u8", np.uint8)
    masks = np.memmap(folder / name, dtype=dtype, mode="r", shape=(count, size, size))
    return CachedMaps(levels, masks, np.cumsum([0, *(len(plan.offsets) for plan in plans)]), plans)


def window_batches(
    source: MaskSource, config: WindowsConfig, *, mean: Tensor, runtime: RuntimeOptions, description: str
) -> Iterator[list[Windows]]:
    """Yields the windows of all images of a source in order, in batches of about `runtime.batch` windows.

    Args:
        mean: [C, 1, 1], shown beyond the edges of an image.
        description: of the progress bar.
    """
    batch: list[Windows] = []
    images = in_workers(WindowSet(source, config, mean=mean), range(len(source)), workers=runtime.processes)
    for windows in track(images, description, total=len(source)):
        batch.append(windows)
        if sum(len(windows.pixels) for windows in batch) >= runtime.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def to_input(pixels: Tensor, *, mean: Tensor, std: Tensor, device: torch.device) -> Tensor:
    """Moves pixels [n, C, S, S], uint8 or float32 in [0, 1], to the device and normalizes them to float32."""
    images = pixels.to(device, non_blocking=True)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.clone()
    return normalize(images, mean.to(device), std.to(device))


def _remove_stale_parts(folder: Path) -> None:
    """Removes parts of this entry that a killed process left behind."""
    for part in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - part.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
