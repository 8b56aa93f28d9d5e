"""Features of images: streamed through extractors, and cached on disk.

N  images of the data    B  images in a batch    C  channels    H, W  height and width of a view
D  dimensions of the features
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.io.value_ranges import check_values
from repre.data.labels.splits import LabeledImages
from repre.data.loading.loader import stack
from repre.data.loading.workers import in_workers, load_tracked
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import BadImage, RunError, UserError
from repre.evaluation.bad_images import unreadable
from repre.evaluation.feature_cache import evict, go_on_without, mark_used
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.models.transform import Transform, usual_crop
from repre.types import Canvases
from repre.utils.amp import autocast
from repre.utils.io import cache_home, json_hash, write_atomically
from repre.utils.pieces import Halving
from repre.utils.progress import ItemCount
from repre.utils.rank_stream import in_order
from repre.utils.safe_load import content_hash
from repre.utils.together import my_share, of_rank, together

FORMAT = 1
"""Version of the cached features; increased when the same key would stand for other values."""

Extractor = Callable[[Tensor], Tensor]
"""Maps normalized images [B, C, H, W] to features [B, D]."""


def eval_transform(
    resolved: ResolvedEncoder,
    encoder: Encoder,
    *,
    crop_pct: float | None = None,
    value_range: tuple[float, float] | None = None,
) -> Transform:
    """Returns the test transform for an encoder's own image size and normalization.

    Args:
        resolved: where the encoder comes from; gives normalization and range of the pixels.
        encoder: built from `resolved`; gives the image size.
        crop_pct: None shows images with a side below 96 pixels whole and crops 224 of 256 pixels of larger ones.
        value_range: pixel values that map to 0 and 1; None uses those of the encoder's training, or of the file type.

    Raises:
        UserError: the normalization has another number of channels.
    """
    views = ViewsConfig(
        size=encoder.image_size, mean=resolved.mean, std=resolved.std, value_range=value_range or resolved.value_range
    )
    views.statistics(encoder.config.channels)
    return Transform(views, usual_crop(views.shape) if crop_pct is None else crop_pct)


# --------------------------------------------------------------------------------------------------- streaming images


class _DecodedBatches(Dataset[tuple[Canvases, Tensor] | UserError]):
    """Item t is batch t: images on a canvas of the largest one's side [B, C, K, K], and their sizes [B, 2]."""

    def __init__(self, images: Source, *, batch: int) -> None:
        self.images, self.batch = images, batch

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __getitem__(self, number: int) -> tuple[Canvases, Tensor] | UserError:
        loaded = []
        for index in range(number * self.batch, min((number + 1) * self.batch, len(self.images))):
            try:
                loaded.append(load_tracked(self.images, index))
            except UnreadableImage as error:
                # `in_workers` raises returned errors; an error raised here would carry the traceback of a worker.
                return BadImage(unreadable(self.images.describe(index), error))
        return stack(loaded)


def stream_views(images: Source, transform: Transform, *, runtime: RuntimeOptions) -> Iterator[Tensor]:
    """Yields the test views of all images in order, in batches [B, C, H, W] on the device. Of several ranks, each yields its
    share of the batches: those of its number, and every so many ranks further.

    Raises:
        UserError: an image cannot be read, or the values of the images do not fit their range.
        RunError: a worker process died.
    """
    source = images.source if isinstance(images, LabeledImages) else images
    check_values(source, transform.views.value_range, option="--value-range", flat_is_wrong=False)
    device = runtime.torch_device
    batches = _DecodedBatches(images, batch=runtime.batch)
    rank, ranks = my_share()
    numbers = range(rank, len(batches), ranks)
    workers = min(runtime.processes, len(numbers))
    decoded = in_workers(batches, numbers, workers=workers, pin=device.type == "cuda")
    with ItemCount(of_rank("images"), total=len(images) if ranks == 1 else len(numbers) * runtime.batch) as counter:
        for pixels, sizes in decoded:
            yield transform(pixels.to(device, non_blocking=True), sizes)
            counter.update(len(pixels))


@torch.no_grad()
def extract_features(batches: Iterable[Tensor], extractors: Sequence[Extractor]) -> list[Tensor]:
    """Returns the features of all images by every extractor, each float32 on the CPU [N, D].

    A batch that does not fit into memory is halved. Of several ranks, rank 0 returns the features of all images in their
    order, and the others return none.

    Args:
        batches: views of the images, [B, C, H, W], or of this rank's share of them; read once.
    """
    pieces = [Halving() for _ in extractors]

    def extract(views: Tensor) -> list[Tensor]:
        return [
            torch.cat([*halving(len(views), partial(_features, extractor, views))])
            for extractor, halving in zip(extractors, pieces)
        ]

    found = [*in_order([features] for features in map(extract, batches))]
    return [torch.cat(features) for features in zip(*found)]


def _features(extractor: Extractor, views: Tensor, rows: slice) -> Tensor:
    return extractor(views[rows]).float().cpu()


# ---------------------------------------------------------------------------------------------- features of an encoder


def encoder_extractor(encoder: Encoder, *, tokens: bool = False, precision: torch.dtype = torch.float32) -> Extractor:
    """Returns an extractor of an encoder's pooled embedding. It runs in evaluation mode and restores the encoder's mode.

    Args:
        tokens: append the mean of the final-normed patch tokens, as DINOv2's linear probe does (arXiv 2304.07193, B.3).
        precision: bfloat16 computes under autocast.
    """
    device = next(encoder.parameters()).device

    def extract(images: Tensor) -> Tensor:
        training = encoder.training
        encoder.eval()
        try:
            with autocast(device, precision):
                features = encoder(images.to(device), maps=False, patches=tokens)
        finally:
            encoder.train(training)
        if features.patches is None:
            return features.embedding
        return torch.cat([features.embedding.float(), features.patches.float().mean(1)], dim=1)

    return extract


def cached_features(
    encoder: Encoder,
    images: LabeledImages,
    transform: Transform,
    *,
    tokens: bool = False,
    runtime: RuntimeOptions,
) -> Tensor:
    """Returns an encoder's features of labeled images, float32 on the CPU [N, D], from the cache if they are there.

    The cache key covers all that the features depend on: weights, architecture, pixels, transform, precision. A cache
    that cannot be written costs a warning.

    Args:
        tokens: see `encoder_extractor`.

    Raises:
        UserError: an image cannot be read.
        RunError: the features are not finite.
    """
    root = runtime.cache or cache_home()
    path = root / "features" / f"{_key(encoder, images, transform, tokens, runtime.dtype)}.npy"
    cached = _load(path, len(images))
    if cached is not None:
        mark_used(path)
        return cached
    device = next(encoder.parameters()).device
    (features,) = together(device, _encoded, encoder, images, transform, tokens=tokens, runtime=runtime)
    if not features.isfinite().all():
        raise RunError(f"the features of {images.spec} are not finite; the encoder's weights are broken")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.save(file, features.numpy()))
        evict(path.parent.parent, max_gib=runtime.cache_gib, keep=path)
    except (OSError, RunError) as error:
        go_on_without(root, error)
    return features


def _encoded(
    encoder: Encoder, images: LabeledImages, transform: Transform, *, tokens: bool, runtime: RuntimeOptions
) -> list[Tensor]:
    """What `extract_features` returns for the embedding of an encoder."""
    extractor = encoder_extractor(encoder, tokens=tokens, precision=runtime.dtype)
    return extract_features(stream_views(images, transform, runtime=runtime), [extractor])


def _key(encoder: Encoder, images: LabeledImages, transform: Transform, tokens: bool, precision: torch.dtype) -> str:
    architecture = {
        name: value
        for name, value in asdict(encoder.config).items()
        if name not in ("weights", "drop_path", "grad_checkpointing")
    }
    content = {
        "format": FORMAT,
        "weights": content_hash(encoder.state_dict()),
        "encoder": architecture | {"image_size": encoder.image_size},
        "images": images.identity(),
        "view": asdict(transform.views),
        "crop_pct": transform.crop_pct,
        "tokens": tokens and "normed",  # True stands for raw ones in older caches
        "precision": str(precision),
    }
    return json_hash(content, length=40)


def _load(path: Path, count: int) -> Tensor | None:
    """Cached features of `count` images; None if there are none or the file is damaged."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    valid = features.dtype == np.float32 and features.ndim == 2 and len(features) == count
    return torch.from_numpy(features) if valid else None
