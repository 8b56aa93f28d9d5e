"""A fitted depth regression, by `repre eval depth`.

n  windows of an image    S  side of a window    C  channels    H, W  height and width of an image
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from repre.errors import UserError
from repre.evaluation.depth.predicted_depth import NEAREST, draw_depth, predict_depth
from repre.evaluation.fitted.fitted_classifier import write_csv
from repre.evaluation.fitted.fitted_model import PredictOptions
from repre.evaluation.fitted.fitted_windows import (
    ImageWindows,
    WindowModel,
    WindowPreprocessing,
    check_levels,
    check_windows,
)
from repre.evaluation.fitted.predictions import DepthMap
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.segmentation_heads import LinearHead
from repre.evaluation.segmentation.segmenter import Segmenter
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically

DEPTHS = "depth"
"""Folder of the predicted depth maps."""


@dataclass(frozen=True, kw_only=True)
class DepthHead:
    """A linear head on the encoder's maps, which gives the logarithm of the depth in meters."""

    levels: tuple[int, ...]
    """Indices of the encoder's maps that the head takes."""
    norm: bool
    """The maps come after the encoder's final norm."""
    half_maps: bool
    """The maps are rounded to float16, as the cached maps were that the head was trained on."""
    max_depth: float | None
    """Meters beyond which no prediction goes; None for no limit."""

    def __post_init__(self) -> None:
        check_fields(self, "head")
        check_levels(self.levels)
        if self.max_depth is not None and not self.max_depth > NEAREST:
            raise UserError(f"head.max_depth must be above {NEAREST} meters, not {self.max_depth}")


class FittedDepth(WindowModel):
    """Windows [n, C, S, S] -> log depth [n, 1, S, S]. Predictions average the log depth of overlapping windows."""

    task = "depth"
    Head = DepthHead
    output = "log_depth"
    has_classes = False
    head: DepthHead

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        *,
        classes: Sequence[str] = (),
        head: DepthHead,
        preprocessing: WindowPreprocessing,
        batch: int,
    ) -> Self:
        check_windows(encoder, head.levels, preprocessing)
        levels = list(head.levels)
        layers = LinearHead([encoder.widths[level] for level in levels], 1, frozen=True)
        network = Segmenter(encoder, layers, levels, norm=head.norm, frozen=True, half_maps=head.half_maps)
        return cls(network, classes=classes, head=head, preprocessing=preprocessing, batch=batch)

    @property
    def activation(self) -> str:
        limits = f"at least {NEAREST}" + ("" if self.head.max_depth is None else f" and at most {self.head.max_depth}")
        return f"resize to the image, then exp: depth in meters, {limits}"

    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[ImageWindows], list[str]], list[DepthMap]]:
        logits, max_depth = self.window_logits(runtime), self.head.max_depth

        def predict(images: list[ImageWindows], names: list[str]) -> list[DepthMap]:
            found = zip(images, names, logits([image.pixels for image in images]))
            return [
                DepthMap(name, predict_depth(windows, image.plan, image.size, max_depth=max_depth).cpu().numpy())
                for image, name, windows in found
            ]

        return predict

    def write(self, prediction: DepthMap, name: str, folder: Path, options: PredictOptions) -> dict[str, Any]:
        """Writes ``depth/NAME.npy``: meters, float32 [H, W]. PNG would need a scale, and cut what is too far for it."""
        file = Path(DEPTHS) / f"{name}.npy"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file, lambda opened: np.save(opened, prediction.depth))
        low, middle, high = (float(value) for value in np.quantile(prediction.depth, (0, 0.5, 1)))
        return {"path": prediction.name, "depth": file.as_posix(), "meters": [low, middle, high]}

    def join(self, rows: Callable[[], Iterator[dict[str, Any]]], folder: Path, options: PredictOptions) -> None:
        """Writes ``predictions.csv`` with the nearest, median and farthest depth of every image in meters."""

        def cells(row: dict[str, Any]) -> list[str]:
            return [row["path"], row["depth"], *(f"{value:.6g}" for value in row["meters"])]

        header = ["path", "depth", "nearest_m", "median_m", "farthest_m"]
        write_csv(folder / self.file_name, header, map(cells, rows()))

    def draw(self, image: np.ndarray, prediction: DepthMap, options: PredictOptions) -> Image.Image:
        return draw_depth(self.shown(image), prediction.depth)
