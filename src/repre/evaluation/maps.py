"""Frozen dense transfer: the maps of a frozen encoder for every window of a data set, computed once and kept on disk.

A store is a folder whose name is a hash of everything that defines it: weights, data, windows, normalization, levels,
precision. It is written beside and renamed when it is whole, so a reader never sees a part.

    <cache>/maps/5f0c.../level-0.f16   float16 [N, C_l, H_l, W_l], bare
                         masks.u8      uint8 [N, S, S]
                         index.json    shapes, and every image's windows

    N  windows of all images    S  side of a window    C_l, H_l, W_l  map of level l
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from repre.data.io.sources import cache_home
from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import Plan, Windows, WindowsConfig, WindowSet, in_workers
from repre.data.views.color import normalize
from repre.errors import RunError
from repre.evaluation.feature_cache import make_room, used_now
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.utils.amp import autocast
from repre.utils.io import json_hash, write_json
from repre.utils.safe_load import content_hash

FORMAT = 1
"""Version of the layout and of how maps are made; a change here makes older stores unused."""
LARGEST = 65504.0
"""Of float16."""
STALE_SECONDS = 24 * 3600
"""After this time a part that was never finished is taken for dead."""


@dataclass(frozen=True)
class Maps:
    """The maps of a data set; arrays lie on the disk and are read where they are touched.

    Attributes:
        levels: float16 [N, C_l, H_l, W_l] per level.
        masks: uint8 [N, S, S].
        first: the first window of every image, and N; int64 [images + 1].
        plans: where the windows of every image lie.
    """

    levels: Sequence[np.ndarray]
    masks: np.ndarray
    first: np.ndarray
    plans: list[Plan]

    def windows(self, images: list[int]) -> np.ndarray:
        """The windows of some images, int64."""
        return np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in images])

    def read(self, windows: np.ndarray, device: torch.device) -> list[Tensor]:
        """The maps of some windows, float32 [n, C_l, H_l, W_l] per level, on the device."""
        return [torch.from_numpy(level[windows]).to(device).float() for level in self.levels]


def cached_maps(
    encoder: Encoder,
    source: MaskSource,
    config: WindowsConfig,
    *,
    mean: Tensor,
    std: Tensor,
    levels: list[int],
    runtime: RuntimeOptions,
) -> Maps:
    """The maps of every image of `source`, from the disk where they are known.

    Args:
        mean, std: normalization, [C, 1, 1].
        levels: which of the encoder's maps are kept.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    defines = {
        "format": FORMAT,
        "model": asdict(replace(encoder.config, weights=None, drop_path=0.0, grad_checkpointing=False)),
        "image_size": encoder.image_size,
        "weights": content_hash(encoder.state_dict()),
        "data": source.fingerprint(),
        "classes": len(source.classes),
        "windows": asdict(config),
        "statistics": [mean.flatten().tolist(), std.flatten().tolist()],
        "levels": [encoder.out_indices[level] for level in levels],
        "precision": str(runtime.dtype),
        "device": runtime.torch_device.type,
    }
    key = json_hash(defines, length=32)
    folder = (runtime.cache or cache_home()) / "maps" / key
    if not (folder / "index.json").is_file():
        _remove_dead_parts(folder)
        beside = folder.with_name(f".{key}.{os.getpid()}")
        try:
            beside.mkdir(parents=True)
            _write(beside, encoder, source, config, mean=mean, std=std, levels=levels, runtime=runtime)
            if not folder.exists():  # another process may have been faster
                beside.rename(folder)
        except OSError as error:
            raise RunError(
                f"the maps of {source.spec} cannot be kept in {folder.parent} ({error.strerror}); free some space, or "
                "name another folder with --runtime.cache"
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        make_room(folder.parent.parent, most=runtime.cache_gib, keep=folder)
    return _open(folder)


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
    runtime: RuntimeOptions,
) -> None:
    device = runtime.torch_device
    encoder = encoder.to(device).eval()
    plans: list[dict[str, Any]] = []
    shapes: list[list[int]] = []
    count = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"level-{place}.f16", "wb")) for place in range(len(levels))]
        masks = stack.enter_context(open(folder / "masks.u8", "wb"))
        for batch in window_batches(source, config, mean=mean, runtime=runtime, words="maps"):
            pixels = torch.cat([to_input(w.pixels, mean=mean, std=std, device=device) for w in batch])
            with autocast(device, runtime.dtype):
                maps = encoder(pixels).maps
            if not all(bool(maps[level].isfinite().all()) for level in levels):
                raise RunError(f"the maps of {source.spec} are not finite; these weights are broken")
            kept = [maps[level].float().clamp(-LARGEST, LARGEST).half().cpu() for level in levels]
            for file, level in zip(files, kept):
                file.write(level.numpy().tobytes())
            for windows in batch:
                masks.write(windows.masks.numpy().tobytes())
                plans.append({"grid": windows.plan.grid, "offsets": windows.plan.offsets})
            shapes = [list(level.shape[1:]) for level in kept]
            count += len(pixels)
    write_json(folder / "index.json", {"windows": count, "size": config.size, "shapes": shapes, "plans": plans})


def _open(folder: Path) -> Maps:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    count, size = index["windows"], index["size"]
    used_now(folder)
    plans = [Plan(tuple(p["grid"]), tuple((top, left) for top, left in p["offsets"]), size) for p in index["plans"]]
    levels = [
        np.memmap(folder / f"level-{place}.f16", dtype=np.float16, mode="r", shape=(count, *shape))
        for place, shape in enumerate(index["shapes"])
    ]
    masks = np.memmap(folder / "masks.u8", dtype=np.uint8, mode="r", shape=(count, size, size))
    return Maps(levels, masks, np.cumsum([0, *(len(plan.offsets) for plan in plans)]), plans)


def window_batches(
    source: MaskSource, config: WindowsConfig, *, mean: Tensor, runtime: RuntimeOptions, words: str
) -> Iterator[list[Windows]]:
    """All images of a source in order, gathered until a batch has about `runtime.batch` windows of one dtype."""
    batch: list[Windows] = []
    made = in_workers(WindowSet(source, config, mean=mean), range(len(source)), workers=runtime.processes)
    for windows in tqdm(made, total=len(source), desc=words, unit="image", disable=None, leave=False):
        batch.append(windows)
        if sum(len(w.pixels) for w in batch) >= runtime.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def to_input(pixels: Tensor, *, mean: Tensor, std: Tensor, device: torch.device) -> Tensor:
    """Pixels [n, C, S, S], uint8 or float32 in [0, 1], normalized on the device in float32."""
    images = pixels.to(device, non_blocking=True)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.clone()
    return normalize(images, mean.to(device), std.to(device))


def _remove_dead_parts(folder: Path) -> None:
    """Parts of this store that a killed process left behind."""
    for part in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - part.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
