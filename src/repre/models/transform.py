"""How images become the input of an encoder: resize, center crop, normalize. The same for evaluations, `embed` and exports.

B  images    C  channels    H, W  height and width of a view    K  side of the canvas of decoded images
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from repre.data.io.image_files import Decoding
from repre.data.io.memory_images import MemorySource, as_images
from repre.data.loading.loader import stack
from repre.data.views.geometry import Range
from repre.data.views.render import center_view
from repre.data.views.view_recipes import ViewsConfig
from repre.types import Canvases

SMALL_VIEW = 96
"""Below this shorter side, as with CIFAR, objects fill the image, so the test view shows all of it."""
CROP_PCT = 224 / 256
"""Share of the short side that the center crop of larger images covers, as usual on ImageNet."""
INTERPOLATION = "bicubic"
"""Resampling of the test transform, with antialiasing."""


@dataclass(frozen=True)
class Transform:
    """The test transform of an encoder: resize, center crop, normalize.

    Attributes:
        views: size, normalization and range of the pixels.
        crop_pct: share of the short side that the crop covers; see `center_view`.
    """

    views: ViewsConfig
    crop_pct: float

    @property
    def canvas(self) -> int:
        """Side of the square that decoded images must fit; the decoder shrinks larger ones."""
        return 2 * round(max(self.views.shape) / self.crop_pct)

    def decoding(self, channels: int) -> Decoding:
        """How images for this transform are decoded."""
        return Decoding(channels=channels, canvas=self.canvas, raw_values=self.views.value_range is not None)

    def __call__(self, pixels: Canvases, sizes: Tensor) -> Tensor:
        """Images of `sizes` [B, 2] (height, width) on a canvas [B, C, K, K] -> views [B, C, H, W]."""
        return center_view(pixels, sizes, size=self.views.shape, config=self.views, crop_pct=self.crop_pct)


@dataclass(frozen=True)
class ImageTransform:
    """Images of any kind -> the input of an encoder. Use it as the `transform` of a data set, or on a list of images.

    Attributes:
        transform: resize, center crop, normalize.
        channels: of the encoder.
    """

    transform: Transform
    channels: int

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        value_range: Range | None = None,
        *,
        crop_pct: float | None = None,
    ) -> Self:
        """The transform for an encoder's image size (height, width) and normalization; None stands for the usual one.

        Raises:
            UserError: the normalization has another number of channels.
        """
        given = None if mean is None else tuple(mean), None if std is None else tuple(std)
        views = ViewsConfig(size=size, mean=given[0], std=given[1], value_range=value_range)
        mean, std = (tuple(values.flatten().tolist()) for values in views.statistics(channels))
        views = ViewsConfig(size=size, mean=mean, std=std, value_range=value_range)
        return cls(Transform(views, usual_crop(size) if crop_pct is None else crop_pct), channels)

    def __call__(self, images: Any) -> Tensor:
        """Images as normalized pixels: [C, H, W] of one image, [B, C, H, W] of several.

        Args:
            images: a path, a PIL image, an array [H, W, C] or [H, W], a tensor [C, H, W], or a list or batch of these. uint8
                values are 0 to 255, uint16 0 to 65535, floats 0 to 1, unless the encoder has a range of pixel values.

        Raises:
            UserError: there are no images, or something else.
            UnreadableImage: an image cannot be read.
        """
        several, is_one = as_images(images)
        source = MemorySource(several, **self.transform.decoding(self.channels))
        loaded = [source.load(index) for index in range(len(source))]
        views = self.transform(*stack(loaded))
        return views[0] if is_one else views

    def describe(self) -> dict[str, Any]:
        """The transform as plain values, for the metadata of exports."""
        views = self.transform.views
        assert views.mean is not None
        assert views.std is not None
        return {
            "size": list(views.shape),
            "mean": [round(value, 6) for value in views.mean],
            "std": [round(value, 6) for value in views.std],
            "crop_pct": self.transform.crop_pct,
            "interpolation": INTERPOLATION,
            "value_range": None if views.value_range is None else list(views.value_range),
        }

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> Self:
        """The transform of what `describe` gives."""
        height, width = described["size"]
        mean, value_range = described["mean"], described.get("value_range")
        return cls.of(
            (int(height), int(width)),
            len(mean),
            mean,
            described["std"],
            None if value_range is None else (float(value_range[0]), float(value_range[1])),
            crop_pct=float(described["crop_pct"]),
        )


def usual_crop(size: tuple[int, int]) -> float:
    """Returns the share of the short side that the center crop covers at an image size if no setting names one."""
    return 1.0 if min(size) < SMALL_VIEW else CROP_PCT
