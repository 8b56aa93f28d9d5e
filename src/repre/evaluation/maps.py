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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import Plan, Windows, WindowsConfig
from repre.errors import RunError, UserError
from repre.evaluation.feature_cache import evict, go_on_without, mark_used
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.window_stream import to_input, window_chunks
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.io import cache_home, json_hash, write_json
from repre.utils.os_errors import reason_of
from repre.utils.pieces import Halving
from repre.utils.rank_stream import in_order
from repre.utils.safe_load import content_hash
from repre.utils.together import my_share, together

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
    """Computes the maps, by all ranks, and fills the folder of an entry."""
    depth = source.load(0)[1].dtype == np.float32
    names = [*(f"level-{index}.f16" for index in range(len(levels))), "depth.f32" if depth else "masks.u8"]
    content = _Content(folder, names, config.size)
    together(
        runtime.torch_device,
        _compute,
        content,
        encoder,
        source,
        config,
        mean=mean,
        std=std,
        levels=levels,
        norm=norm,
        runtime=runtime,
    )


@dataclass
class _Content:
    """The files of an entry, which rank 0 writes."""

    folder: Path
    names: list[str]
    """Files of arrays."""
    size: int
    """Side of a window."""

    def write(self, batches: Iterator["_Computed"]) -> None:
        """Appends the arrays of all batches to their files, and writes the index at the end."""
        plans: list[Plan] = []
        shapes: list[list[int]] = []
        with ExitStack() as stack:
            files = [stack.enter_context(open(self.folder / name, "wb")) for name in self.names]
            for batch in batches:
                for file, array in zip(files, batch.arrays):
                    file.write(array.tobytes())
                plans += batch.plans
                shapes = [list(level.shape[1:]) for level in batch.arrays[:-1]]
        index = {
            "windows": sum(len(plan.offsets) for plan in plans),
            "size": self.size,
            "shapes": shapes,
            "plans": [{"grid": plan.grid, "offsets": plan.offsets} for plan in plans],
        }
        write_json(self.folder / "index.json", index)


class _Computed(NamedTuple):
    """A batch of windows, computed."""

    arrays: list[np.ndarray]
    """Maps of every level, float16 [n, C_l, H_l, W_l], and masks or depth [n, S, S]."""
    plans: list[Plan]
    """Of its images."""


@torch.no_grad()
def _compute(
    content: _Content,
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
    """Computes the maps of this rank's share; rank 0 writes those of all."""
    device = runtime.torch_device
    encoder, pieces = encoder.to(device).eval(), Halving()

    def maps_of(images: Tensor, rows: slice) -> list[Tensor]:
        with autocast(device, runtime.dtype):
            maps = encoder(images[rows], norm=norm).maps
        if not all(bool(maps[level].isfinite().all()) for level in levels):
            raise RunError(f"the maps of {source.spec} are not finite; the encoder's weights are broken")
        return [maps[level].float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu() for level in levels]

    def computed(batch: list[Windows]) -> _Computed:
        images = torch.cat([to_input(windows.pixels, mean=mean, std=std, device=device) for windows in batch])
        stored = [torch.cat(level).numpy() for level in zip(*pieces(len(images), partial(maps_of, images)))]
        masks = np.concatenate([windows.masks.numpy() for windows in batch])
        return _Computed([*stored, masks], [windows.plan for windows in batch])

    chunks = window_chunks(source, config, mean=mean, runtime=runtime, description="maps")
    batches = in_order(map(computed, chunk) for chunk in chunks)
    if my_share()[0]:
        for _ in batches:  # none: they are sent to rank 0
            pass
    else:
        content.write(batches)


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


def _remove_stale_parts(folder: Path) -> None:
    """Removes parts of this entry that a killed process left behind."""
    for part in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - part.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
