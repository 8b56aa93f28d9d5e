"""What an image becomes in a shard: the bytes of its file, or an image shrunk and encoded again."""

import io
import os
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from repre.data.io.archive_members import MAX_MEMBER_BYTES
from repre.data.io.decode import EXTENSIONS, read_image
from repre.data.io.image_files import FileSource
from repre.data.io.image_kinds import FORMATS, HEAD_BYTES, image_kind
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.tiff import needs_tifffile
from repre.data.loading.workers import load_tracked
from repre.data.tools.shard_config import ShardConfig

Array = np.ndarray

ENDINGS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "AVIF": ".avif",
    "JPEG2000": ".jp2",
    "PPM": ".ppm",
    "TIFF": ".tif",
    "numpy": ".npy",
    "dicom": ".dcm",
}
"""Endings of the formats of Pillow, and of the kinds of files that it does not read."""
CHANNELS = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 2, "RGBA": 4}
"""Channels in which an image of a mode of Pillow is kept; of all others three, which its 16-bit modes (I;16...) are not."""


class ShardImage(NamedTuple):
    """One file of a source as a member of a shard.

    Attributes:
        number: index in the source.
        content: uint8 [bytes]; none if it is unreadable.
        ending: of the member's name, if it is not that of the file.
        reason: why it is unreadable; empty if it is readable.
    """

    number: int
    content: Array
    ending: str
    reason: str


class ShardImages(Dataset[ShardImage]):
    """Item i is file i of a source as a member of a shard."""

    def __init__(self, source: FileSource, config: ShardConfig) -> None:
        self.source, self.config = source, config

    def __getitem__(self, index: int) -> ShardImage:
        try:
            content, ending = load_tracked(self, index)
        except UnreadableImage as error:
            return ShardImage(index, np.empty(0, np.uint8), "", str(error))
        return ShardImage(index, np.frombuffer(content, np.uint8), ending, "")

    def load(self, index: int) -> tuple[bytes, str]:
        """Content and new ending of file `index`; raises UnreadableImage."""
        with self.source.files.open(index) as file:
            content = file.read(MAX_MEMBER_BYTES + 1)
        if len(content) > MAX_MEMBER_BYTES:
            raise UnreadableImage("larger than any image")
        return encode(content, name=self.source.files.names[index], config=self.config)

    def describe(self, index: int) -> str:
        return self.source.describe(index)


def encode(content: bytes, *, name: str, config: ShardConfig) -> tuple[bytes, str]:
    """A file as it is kept in a shard.

    Args:
        content: of the file.
        name: its name.

    Returns:
        The content and the ending of the member's name, empty if the name stays.

    Raises:
        UnreadableImage: it is no image, or damaged; only of its beginning where files are copied.
    """
    named = name.lower().endswith(EXTENSIONS)
    if config.copies and named:
        return content, ""
    kind, channels, side = _look(io.BytesIO(content), config)
    if kind not in ENDINGS:
        raise UnreadableImage("not an image")
    if not config.copies:
        image = read_image(io.BytesIO(content), name=name, channels=channels, canvas=config.size)
        if config.format not in ("auto", kind.lower()) or side > (config.size or side):
            return _encode_pixels(image, config)
    return content, "" if named else ENDINGS[kind]


def _look(file: BinaryIO, config: ShardConfig) -> tuple[str, int, int]:
    """A key of `ENDINGS`, the channels to decode, and the longer side; 0 of kinds that Pillow does not read."""
    kind = image_kind(file.read(HEAD_BYTES))
    file.seek(0)
    try:
        if kind in ("numpy", "dicom") or (kind == "tiff" and needs_tifffile(file, config.channels)):
            side = max(read_image(file, channels=config.channels).shape[:2]) if config.size else 0
            return "TIFF" if kind == "tiff" else kind, config.channels, side
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            mode = image.mode
            channels = 1 if mode.startswith("I;16") else CHANNELS.get(mode, 3)
            if mode == "P" and "transparency" in image.info:
                channels = 4
            return str(image.format).replace("MPO", "JPEG"), channels, max(image.size)
    except UnreadableImage:
        raise
    except Exception as error:  # of decoders on damaged files: anything
        raise UnreadableImage("not an image, or damaged") from error


def _encode_pixels(image: Array, config: ShardConfig) -> tuple[bytes, str]:
    """Pixels [H, W, C] in a format that holds them, and its ending."""
    file, channels = io.BytesIO(), image.shape[2]
    if image.dtype == np.uint8 and channels <= 4:
        chosen = "jpeg" if config.format == "auto" else config.format
        if channels == 2 or (channels == 4 and chosen == "jpeg"):
            chosen = "png"
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, chosen, quality=config.quality)
        return file.getvalue(), ENDINGS[chosen.upper()]
    if image.dtype == np.uint16 and channels == 1:
        Image.fromarray(image[..., 0]).save(file, "png")
        return file.getvalue(), ".png"
    np.save(file, image, allow_pickle=False)
    return file.getvalue(), ".npy"


def member_name(name: str, ending: str, *, after: str) -> str | None:
    """Name of a file in a shard, with a new ending if there is one, above `after` by its bytes; None if it is not.

    Two files that differ in their endings alone keep both endings, such as 1.jpg and 1.png.jpg.
    """
    path = PurePosixPath(name)
    replaced = str(path.with_suffix(ending)) if ending and path.suffix.lower() in EXTENSIONS else name + ending
    for candidate in (replaced, name + ending):
        if os.fsencode(candidate) > os.fsencode(after):
            return candidate
    return None
