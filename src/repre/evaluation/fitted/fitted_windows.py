"""What fitted models of every pixel share: images are cut into windows, which encoder and head see.

n  windows of an image    S  side of a window    C  channels    K  outputs per pixel    H, W  height and width of an image
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from repre.data.io.decode import in_range
from repre.data.io.image_files import Decoding
from repre.data.labels.windows import Plan, WindowsConfig, cut, fill_value, plan, to_grid
from repre.errors import UserError
from repre.evaluation.fitted.fitted_model import FittedModel, check_range, check_sides, check_statistics
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.segmentation_task import SegmentationTask
from repre.evaluation.segmentation.segmenter import Segmenter, WindowLogits
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields


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
            raise UserError(f"preprocessing.windows: {self.windows} are not windows")

    @classmethod
    def of(cls, task: SegmentationTask) -> Self:
        """The preprocessing of an evaluation's test images."""
        mean, std = (tuple(values.flatten().tolist()) for values in (task.mean, task.std))
        return cls(windows=task.windows, mean=mean, std=std, value_range=task.value_range)

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


class WindowModel(FittedModel):
    """Windows [n, C, S, S] -> float32 [n, K, S, S]. Predictions average the outputs of overlapping windows."""

    Preprocessing = WindowPreprocessing
    file_name = "predictions.csv"
    files_per_image = True
    is_drawn = True
    preprocessing: WindowPreprocessing
    network: Segmenter

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

    def window_logits(self, runtime: RuntimeOptions) -> WindowLogits:
        """Returns the function from windows of images to the network's outputs."""
        mean, std = self.preprocessing.statistics
        return WindowLogits(self.network, mean=mean, std=std, runtime=runtime)

    def shown(self, image: np.ndarray) -> np.ndarray:
        """The image [H, W, C] as pictures show it: uint8, uint16 or float32 in [0, 1]."""
        value_range = self.preprocessing.value_range
        return image if value_range is None else in_range(image, value_range)


def check_levels(levels: Sequence[int]) -> None:
    """Refuses numbers of maps that no evaluation stores; raises UserError."""
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 0:
        raise UserError(f"head.levels must name maps in rising order, not {levels}")


def check_windows(encoder: Encoder, levels: Sequence[int], preprocessing: WindowPreprocessing) -> None:
    """Refuses a head and windows that do not fit an encoder; raises UserError."""
    check_statistics(preprocessing.mean, preprocessing.std, channels=encoder.config.channels)
    if levels[-1] >= len(encoder.out_indices):
        raise UserError(f"head.levels {levels}: the encoder has {len(encoder.out_indices)} maps")
    if encoder.image_size != (preprocessing.windows.size, preprocessing.windows.size):
        raise UserError(f"windows of {preprocessing.windows.size} pixels do not fit an encoder of {encoder.image_size}")
