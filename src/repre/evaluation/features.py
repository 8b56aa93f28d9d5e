"""Features of images: extracted once, streaming, and kept on the disk; and the two baselines that an encoder has to beat.

N  images of the data    B  images in a piece    C  channels    S  side of a view    D  width of the features
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source, cache_home
from repre.data.labels.splits import LabeledImages
from repre.data.labels.windows import in_workers
from repre.data.loading.loader import stack
from repre.data.views.render import ViewsConfig, center_view, denormalize
from repre.errors import RunError, UserError
from repre.evaluation.feature_cache import make_room, used_now
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder
from repre.models.resolve import ResolvedEncoder
from repre.utils.amp import autocast
from repre.utils.io import json_hash, write_atomically
from repre.utils.safe_load import content_hash

FORMAT = 1
"""Version of the kept features; raised when the same key would stand for other numbers."""
SMALL = 96
"""Images below this size, such as CIFAR's, fill their frame and are seen whole."""

Extractor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Transform:
    """The plain view that an encoder is tested on: resized, center crop, normalized.

    Attributes:
        views: size, normalization, range of the pixels.
        crop_pct: share of the short side that the crop covers.
    """

    views: ViewsConfig
    crop_pct: float

    @property
    def canvas(self) -> int:
        """Side of the square that decoded images have to fit; larger ones are shrunk while they are decoded."""
        return 2 * round(self.views.size / self.crop_pct)

    def __call__(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        return center_view(pixels, sizes, size=self.views.size, config=self.views, crop_pct=self.crop_pct)


def eval_transform(
    start: ResolvedEncoder,
    encoder: Encoder,
    *,
    crop_pct: float | None = None,
    value_range: tuple[float, float] | None = None,
) -> Transform:
    """The view of an encoder's own size and normalization.

    Args:
        crop_pct: None shows small images (below 96 pixels a side) whole and crops 224 of 256 pixels of others.
        value_range: pixel values that stand for 0 and 1; None takes those that the encoder was trained with, or of the
            files' type.
    """
    height, width = encoder.image_size
    if height != width:
        raise UserError(f"--encoder {start.spec} is made for {height} x {width} pixels; give a square --size")
    views = ViewsConfig(size=height, mean=start.mean, std=start.std, value_range=value_range or start.value_range)
    views.statistics(encoder.config.channels)
    return Transform(views, (1.0 if height < SMALL else 224 / 256) if crop_pct is None else crop_pct)


# --------------------------------------------------------------------------------------------------- streaming images


class _Pieces(Dataset[tuple[Tensor, Tensor, str]]):
    """Piece t: decoded images on a canvas of the largest one's side, their sizes, and what could not be read."""

    def __init__(self, images: Source, *, batch: int, keep_values: bool) -> None:
        self.images, self.batch, self.keep_values = images, batch, keep_values

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __getitem__(self, piece: int) -> tuple[Tensor, Tensor, str]:
        loaded = []
        for index in range(piece * self.batch, min((piece + 1) * self.batch, len(self.images))):
            try:
                loaded.append(self.images.load(index))
            except UnreadableImage as error:  # the calling process raises: from here it would arrive as a traceback
                return torch.empty(0), torch.empty(0), f"{self.images.describe(index)} cannot be read: {error}"
        side = max(max(image.shape[:2]) for image in loaded)
        return *stack(loaded, canvas=side, keep_values=self.keep_values), ""


def stream(images: Source, transform: Transform, *, runtime: RuntimeOptions, words: str = "images") -> Iterator[Tensor]:
    """Plain views of all images in order, piece by piece on the device, [B, C, S, S]; UserError for unreadable ones."""
    device = runtime.torch_device
    pieces = _Pieces(images, batch=runtime.batch, keep_values=transform.views.value_range is not None)
    workers = min(runtime.processes, len(pieces))
    loader = in_workers(pieces, range(len(pieces)), workers=workers, pin=device.type == "cuda")
    with tqdm(total=len(images), desc=words, unit="img", disable=None, leave=False) as bar:
        for pixels, sizes, unreadable in loader:
            if unreadable:
                raise UserError(f"{unreadable}; mend it or remove it")
            yield transform(pixels.to(device, non_blocking=True), sizes)
            bar.update(len(pixels))


@torch.no_grad()
def extract_all(
    images: Source, transform: Transform, extractors: Sequence[Extractor], *, runtime: RuntimeOptions
) -> list[Tensor]:
    """What every extractor ([B, C, S, S] -> [B, D]) makes of all images, decoded once: float32 on the CPU, [N, D]."""
    found: list[list[Tensor]] = [[] for _ in extractors]
    for views in stream(images, transform, runtime=runtime):
        for parts, extractor in zip(found, extractors):
            parts.append(extractor(views).float().cpu())
    return [torch.cat(parts) for parts in found]


# ---------------------------------------------------------------------------------------------- features of an encoder


def encoder_features(
    encoder: Encoder, *, tokens: bool = False, precision: torch.dtype = torch.float32
) -> Callable[[Tensor], Tensor]:
    """The pooled embedding of an encoder in evaluation mode; its mode is put back after every piece.

    Args:
        tokens: append the mean over the cells of the last map, as DINOv2's linear probe does (arXiv 2304.07193, B.3).
        precision: bfloat16 computes under autocast.
    """
    device = next(encoder.parameters()).device

    def embed(images: Tensor) -> Tensor:
        mode = encoder.training
        encoder.eval()
        try:
            with autocast(device, precision):
                features = encoder(images.to(device), maps=tokens)
        finally:
            encoder.train(mode)
        if not tokens:
            return features.embedding
        return torch.cat([features.embedding.float(), features.maps[-1].float().mean((2, 3))], dim=1)

    return embed


def cached_features(
    encoder: Encoder,
    images: LabeledImages,
    transform: Transform,
    *,
    tokens: bool = False,
    runtime: RuntimeOptions,
) -> Tensor:
    """Features of labeled images, float32 on the CPU [N, D]; from the disk where they were extracted before.

    The key is made of all that they depend on: weights, shape of the model, pixels, view, precision.
    """
    key = _key(encoder, images, transform, tokens, runtime.dtype)
    folder = (runtime.cache or cache_home()) / "features"
    path = folder / f"{key}.npy"
    kept = _read(path, len(images))
    if kept is not None:
        used_now(path)
        return kept
    extractor = encoder_features(encoder, tokens=tokens, precision=runtime.dtype)
    features = extract_all(images, transform, [extractor], runtime=runtime)[0]
    if not features.isfinite().all():
        raise RunError(f"the features of {images.spec} are not finite; these weights are broken")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.save(file, features.numpy()))
        make_room(folder.parent, most=runtime.cache_gib, keep=path)
    except (OSError, RunError) as error:
        warnings.warn(f"the features are not kept for next time: {error}", stacklevel=2)
    return features


def _key(encoder: Encoder, images: LabeledImages, transform: Transform, tokens: bool, precision: torch.dtype) -> str:
    shape = {k: v for k, v in asdict(encoder.config).items() if k not in ("weights", "drop_path", "grad_checkpointing")}
    rest = {
        "format": FORMAT,
        "weights": content_hash(encoder.state_dict()),
        "encoder": shape | {"image_size": encoder.image_size},
        "images": images.identity(),
        "view": asdict(transform.views),
        "crop_pct": transform.crop_pct,
        "tokens": tokens,
        "precision": str(precision),
    }
    return json_hash(rest, length=40)


def _read(path: Path, count: int) -> Tensor | None:
    """Kept features; None where there are none, or a damaged file, which is written anew."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = found.dtype == np.float32 and found.ndim == 2 and len(found) == count
    return torch.from_numpy(found) if fits else None


# ------------------------------------------------------------------------------------- whole sets in memory, baselines


@dataclass(frozen=True)
class Labeled:
    """Images of a labeled source as plain center views.

    Attributes:
        images: normalized, [N, C, S, S].
        labels: int64 [N].
        classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int


def load_labeled(source: Source, *, views: ViewsConfig, canvas: int, batch: int = 256) -> Labeled:
    """Decodes a whole labeled source to center views at the size of the global views."""
    if source.labels is None:
        raise UserError(f"{source.spec} has no labels")
    parts = []
    for start in range(0, len(source), batch):
        images = [source.load(index) for index in range(start, min(start + batch, len(source)))]
        pixels, sizes = stack(images, canvas=canvas, keep_values=views.value_range is not None)
        parts.append(center_view(pixels, sizes, size=views.size, config=views))
    labels = torch.from_numpy(np.asarray(source.labels, dtype=np.int64))
    return Labeled(torch.cat(parts), labels, len(source.classes))


@torch.no_grad()
def extract(images: Tensor, features: Extractor, *, batch: int = 256) -> Tensor:
    """Applies `features` ([B, C, S, S] -> [B, D]) piece by piece; gives float32 on the CPU, [N, D]."""
    return torch.cat([features(part).float().cpu() for part in images.split(batch)])


def raw_pixels(images: Tensor) -> Tensor:
    """The pixels themselves, centered per image: [B, C, S, S] -> [B, C S S]."""
    flat = images.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def color_histogram(views: ViewsConfig, *, bins: int = 8) -> Extractor:
    """Square root of the joint histogram of the (first three) channels with `bins` steps each: [B, bins ** channels]."""

    def histogram(images: Tensor) -> Tensor:
        levels = (denormalize(images, views)[:, :3].clamp(0, 1) * (bins - 1e-4)).long()  # [B, C, S, S]
        cells = torch.zeros_like(levels[:, 0])
        for channel in levels.unbind(1):
            cells = cells * bins + channel
        counts = torch.zeros(len(images), bins ** levels.shape[1])
        counts.scatter_add_(1, cells.flatten(1).cpu(), torch.ones(cells.flatten(1).shape))
        return (counts / cells[0].numel()).sqrt()

    return histogram
