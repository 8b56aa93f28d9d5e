"""A fitted semantic segmenter, by `repre eval segment`.

n  windows of an image    S  side of a window    C  channels    K  classes    H, W  height and width of an image
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image

from repre.data.labels.masks import IGNORE
from repre.errors import UserError
from repre.evaluation.fitted.fitted_classifier import write_csv
from repre.evaluation.fitted.fitted_model import PredictOptions
from repre.evaluation.fitted.fitted_windows import (
    ImageWindows,
    WindowModel,
    WindowPreprocessing,
    check_levels,
    check_windows,
)
from repre.evaluation.fitted.predictions import Masks
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.overlay import class_colors, draw_overlay
from repre.evaluation.segmentation.segmentation_heads import segmentation_head
from repre.evaluation.segmentation.segmenter import Segmenter, class_map
from repre.models.encoder import Encoder
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically
from repre.utils.printable_text import printable

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
        check_levels(self.levels)


class FittedSegmenter(WindowModel):
    """Windows [n, C, S, S] -> logits [n, K, S, S]. Predictions average the logits of overlapping windows."""

    task = "segment"
    Head = SegmentHead
    output = "logits"
    head: SegmentHead

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
        check_windows(encoder, head.levels, preprocessing)
        if not 2 <= len(classes) <= IGNORE:
            raise UserError(f"a mask has 2 to {IGNORE} classes, not {len(classes)}")
        levels = list(head.levels)
        layers = segmentation_head(encoder, levels, kind=head.kind, classes=len(classes), width=head.width, frozen=True)
        network = Segmenter(encoder, layers, levels, norm=head.norm, frozen=True, half_maps=head.half_maps)
        return cls(network, classes=classes, head=head, preprocessing=preprocessing, batch=batch)

    @property
    def activation(self) -> str:
        return "resize to the image, then argmax over classes"

    def predictor(
        self, runtime: RuntimeOptions, options: PredictOptions
    ) -> Callable[[list[ImageWindows], list[str]], list[Masks]]:
        logits = self.window_logits(runtime)
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
        names = "".join(f"{printable(name)}\n" for name in self.classes).encode("utf-8", "surrogateescape")
        write_atomically(folder / "classes.txt", lambda file: file.write(names))

        def cells(row: dict[str, Any]) -> list[str]:
            return [row["path"], row["mask"], *(f"{row['shares'].get(name, 0):.6f}" for name in self.classes)]

        write_csv(folder / self.file_name, ["path", "mask", *self.classes], map(cells, rows()))

    def draw(self, image: np.ndarray, prediction: Masks, options: PredictOptions) -> Image.Image:
        return draw_overlay(self.shown(image), {"prediction": prediction.labels}, self.classes)
