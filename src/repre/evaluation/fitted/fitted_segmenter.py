"""A fitted semantic segmenter, by `repre eval segment`.

n  windows of an image    S  side of a window    C  channels    K  classes    H, W  height and width of an image
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repre.data.io.decode import in_range
from repre.data.io.image_files import Decoding
from repre.data.labels.masks import IGNORE
from repre.data.labels.windows import Plan, WindowsConfig, cut, fill_value, plan, to_grid
from repre.errors import UserError
from repre.evaluation.fitted.fitted_classifier import write_csv
from repre.evaluation.fitted.fitted_model import (
    FittedModel,
    PredictOptions,
    check_range,
    check_sides,
    check_statistics,
)
from repre.evaluation.fitted.predictions import Masks
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.overlay import class_colors, draw_overlay
from repre.evaluation.segmentation.segmentation_heads import segmentation_head
from repre.evaluation.segmentation.segmenter import Segmenter, WindowLogits, class_map
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically

MASKS = "masks"
"""Folder of the predicted masks."""
MAX_WIDTH = 8192
"""Channels of a UPerNet; a stored config with more is taken for damage."""


@dataclass(frozen=True, kw_only=True)
class SegmentHead:
    """A head on the encoder's maps."""

    kind: Literal["linear", "upernet"]
    """Batch normalization and a 1x1 convolution, or UPerNet."""
    width: int
    """Channels of UPerNet's maps."""
    levels: tuple[int, ...]
    """Indices of the encoder's maps that the head takes."""
    norm: bool
    """The maps come after the encoder's final norm."""
    half_maps: bool
    """The maps are rounded to float16, as the cached maps were that the head was trained on."""

    def __post_init__(self) -> None:
        check_fields(self, "head")
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"head.width must be 1 to {MAX_WIDTH}, not {self.width}")
        if not self.levels or list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 0:
            raise UserError(f"head.levels must name maps in rising order, not {self.levels}")


@dataclass(frozen=True, kw_only=True)
class WindowPreprocessing:
    """Cut into windows, normalize; see `repre.data.labels.windows`."""

    windows: WindowsConfig
    """How an image is resized and cut."""
    mean: tuple[float, ...]
    """Mean of every channel; shown beyond the edges of an image, too."""
    std: tuple[float, ...]
    """Standard deviation of every channel."""
    value_range: tuple[float, float] | None = None
    """Pixel values that become 0 and 1; None: those of the file type."""

    def __post_init__(self) -> None:
        check_fields(self, "preprocessing")
        check_fields(self.windows, "preprocessing.windows")
        check_statistics(self.mean, self.std)
        check_range(self.value_range)
        check_sides(size=self.windows.size, short_side=self.windows.short_side)
        if self.windows.size < 1 or not 0 <= self.windows.overlap < 1:
            raise UserError(f"preprocessing.windows: {self.windows} are no windows")

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32 [C, 1, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return mean, std


class ImageWindows(NamedTuple):
    """The windows of an image, without labels."""

    pixels: Tensor
    """[n, C, S, S], uint8 or float32 in [0, 1]."""
    plan: Plan
    """Their positions."""
    size: tuple[int, int]
    """Height and width of the image."""


@dataclass(frozen=True)
class WindowReader:
    """Cuts an image [H, W, C] to windows, as `repre.data.labels.windows.WindowSet` does."""

    preprocessing: WindowPreprocessing

    def __call__(self, image: np.ndarray) -> ImageWindows:
        if self.preprocessing.value_range is not None:
            image = in_range(image, self.preprocessing.value_range)
        height, width = image.shape[:2]
        windows = plan(height, width, self.preprocessing.windows)
        pixels = to_grid(image, windows.grid)
        mean, _ = self.preprocessing.statistics
        return ImageWindows(cut(pixels, windows, fill_value(mean, pixels.dtype)), windows, (height, width))


class FittedSegmenter(FittedModel):
    """Windows [n, C, S, S] -> logits [n, K, S, S]. Predictions average the logits of overlapping windows."""

    task = "segment"
    Head, Preprocessing = SegmentHead, WindowPreprocessing
    output = "logits"
    file_name = "predictions.csv"
    files_per_image = True
    is_drawn = True
    head: SegmentHead
    preprocessing: WindowPreprocessing
    network: Segmenter

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        *,
        classes: Sequence[str],
        head: SegmentHead,
        preprocessing: WindowPreprocessing,
        batch: int,
    ) -> Self:
        check_statistics(preprocessing.mean, preprocessing.std, channels=encoder.config.channels)
        if head.levels[-1] >= len(encoder.out_indices):
            raise UserError(f"head.levels {head.levels}: the encoder has {len(encoder.out_indices)} maps")
        if encoder.image_size != (preprocessing.windows.size, preprocessing.windows.size):
            raise UserError(
                f"windows of {preprocessing.windows.size} pixels do not fit an encoder of {encoder.image_size}"
            )
        if not 2 <= len(classes) <= IGNORE:
            raise UserError(f"a mask has 2 to {IGNORE} classes, not {len(classes)}")
        levels = list(head.levels)
        layers = segmentation_head(encoder, levels, kind=head.kind, classes=len(classes), width=head.width, frozen=True)
        network = Segmenter(encoder, layers, levels, norm=head.norm, frozen=True, half_maps=head.half_maps)
        return cls(network, classes=classes, head=head, preprocessing=preprocessing, batch=batch)

    @property
    def activation(self) -> str:
        return "resize to the image, then argmax over classes"

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @property
    def decoding(self) -> Decoding:
        raw = self.preprocessing.value_range is not None
        return Decoding(channels=self.encoder.config.channels, canvas=None, raw_values=raw)

    @property
    def reader(self) -> Callable[[np.ndarray], ImageWindows]:
        return WindowReader(self.preprocessing)

    def weight(self, item: ImageWindows) -> int:
        return len(item.pixels)

    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[ImageWindows], list[str]], list[Masks]]:
        mean, std = self.preprocessing.statistics
        logits = WindowLogits(self.network, mean=mean, std=std, runtime=runtime)
        classes = tuple(self.classes)

        def predict(images: list[ImageWindows], names: list[str]) -> list[Masks]:
            found = []
            for image, name, windows in zip(images, names, logits([image.pixels for image in images])):
                labels = class_map(windows, image.plan, image.size).to(torch.uint8)
                found.append(Masks(name, labels.cpu().numpy(), classes))
            return found

        return predict

    def write(self, prediction: Masks, name: str, folder: Path, options: PredictOptions) -> dict[str, Any]:
        """Writes ``masks/NAME.png``, whose values are numbers of classes and whose palette has their colors."""
        file = Path(MASKS) / f"{name}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        height, width = prediction.labels.shape
        image = Image.frombytes("P", (width, height), prediction.labels.tobytes())
        image.putpalette([value for color in class_colors(self.classes) for value in color or (0, 0, 0)])
        write_atomically(folder / file, lambda opened: image.save(opened, format="png"))
        shares = {label: round(share, 6) for label, share in prediction.shares().items()}
        return {"path": prediction.name, "mask": file.as_posix(), "shares": shares}

    def join(self, rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, options: PredictOptions) -> None:
        """Writes ``predictions.csv`` with the share of every class in every image, and the names as ``classes.txt``."""
        names = "".join(f"{name}\n" for name in self.classes).encode()
        write_atomically(folder / "classes.txt", lambda file: file.write(names))

        def cells(row: dict[str, Any]) -> list[str]:
            return [row["path"], row["mask"], *(f"{row['shares'].get(name, 0):.6f}" for name in self.classes)]

        write_csv(folder / self.file_name, ["path", "mask", *self.classes], map(cells, rows()))

    def draw(self, image: np.ndarray, prediction: Masks, options: PredictOptions) -> Image.Image:
        if self.preprocessing.value_range is not None:
            image = in_range(image, self.preprocessing.value_range)
        return draw_overlay(image, {"prediction": prediction.labels}, self.classes)
