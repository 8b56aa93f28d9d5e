"""Settings of `repre data shard`. It loads no torch, for the help of commands."""

from dataclasses import dataclass
from typing import Literal

from repre.errors import UserError
from repre.utils.config_checks import check_fields

MAX_SHARD_MIB = 4096


@dataclass(frozen=True)
class ShardConfig:
    """What shards hold."""

    size: int | None = None
    """Shrink larger images to fit a square of this side. Without it and with --format auto, files are copied as they are."""
    format: Literal["auto", "jpeg", "png", "webp"] = "auto"
    """Format of images that are not copied. auto: JPEG; what JPEG cannot hold becomes PNG (transparency, 16 bits) or NumPy
    (floats, other numbers of channels) under any format. Files that fit and are of the format are copied."""
    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""
    shard_mib: int = 256
    """Most MiB of a shard. A shard is made in memory."""
    channels: int = 3
    """Channels of images in TIFF, NumPy and DICOM files that Pillow does not read."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least, most in (
            ("size", 1, 1 << 16),
            ("quality", 1, 100),
            ("shard_mib", 1, MAX_SHARD_MIB),
            ("channels", 1, 1 << 16),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{name} {value}: it is {least} to {most}")

    @property
    def copies(self) -> bool:
        """Whether all files are copied without a look at their pixels."""
        return self.size is None and self.format == "auto"
