"""The windows of images as they are decoded, in batches; of several ranks, each gets its share.

n  windows of one image    C  channels    S  side of a window
"""

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import Windows, WindowsConfig, WindowSet
from repre.data.loading.workers import in_workers
from repre.data.views.color import normalize
from repre.evaluation.options import RuntimeOptions
from repre.utils.progress import track
from repre.utils.together import my_share, of_rank


def window_batches(
    source: MaskSource, config: WindowsConfig, *, mean: Tensor, runtime: RuntimeOptions, description: str
) -> Iterator[list[Windows]]:
    """Yields the windows of all images of a source in order, in batches of about `runtime.batch` windows.

    Args:
        mean: [C, 1, 1], shown beyond the edges of an image.
        description: of the progress bar.
    """
    for chunk in window_chunks(source, config, mean=mean, runtime=runtime, description=description):
        yield from chunk


def window_chunks(
    source: MaskSource, config: WindowsConfig, *, mean: Tensor, runtime: RuntimeOptions, description: str
) -> Iterator[Iterator[list[Windows]]]:
    """Yields the batches of every `runtime.batch` images of a source; of several ranks, each yields its share of these.

    How many windows an image has is known when it is read. No batch has images of two chunks, so that every rank can make
    those that one process would make. The arguments are those of `window_batches`.
    """
    rank, ranks = my_share()
    starts = range(rank * runtime.batch, len(source), ranks * runtime.batch)
    indices = [index for start in starts for index in range(start, min(start + runtime.batch, len(source)))]
    data = WindowSet(source, config, mean=mean)
    images = in_workers(data, indices, workers=min(runtime.processes, max(1, len(indices))))
    numbered = zip(indices, track(images, of_rank(description), total=len(indices)))
    for _, chunk in groupby(numbered, key=lambda item: item[0] // runtime.batch):
        yield _batches((windows for _, windows in chunk), runtime.batch)


def _batches(images: Iterator[Windows], size: int) -> Iterator[list[Windows]]:
    """Batches of images with `size` windows or a few more."""
    batch: list[Windows] = []
    for windows in images:
        batch.append(windows)
        if sum(len(image.pixels) for image in batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def to_input(pixels: Tensor, *, mean: Tensor, std: Tensor, device: torch.device) -> Tensor:
    """Moves pixels [n, C, S, S], uint8 or float32 in [0, 1], to the device and normalizes them to float32."""
    images = pixels.to(device, non_blocking=True)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.clone()
    return normalize(images, mean.to(device), std.to(device))
