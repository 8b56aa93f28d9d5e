"""Limits on what a file may claim to hold, so that reading it needs bounded memory and time."""

import math
import time
from typing import BinaryIO

MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs; Pillow's limit."""
MAX_VALUES = 4 * MAX_PIXELS
"""Most values of an array, over all of its channels and pages."""
MAX_ASPECT = 100
"""Longest side over shortest side. Longer strips cannot be cropped sensibly."""
MAX_SCANS = 100
"""Passes over a JPEG; each takes the time of a whole picture. Encoders make about ten."""
MAX_SECONDS = 60.0
"""Processor time to decode one JPEG."""
START_OF_SCAN = b"\xff\xda"
"""Cannot occur in the packed pixels of a JPEG."""


class UnreadableImage(Exception):
    """A file that gives no usable pixels; the message is the reason."""


def check_shape(height: int, width: int) -> None:
    """Refuses empty, huge and very long images.

    Raises:
        UnreadableImage: names the size.
    """
    if min(height, width) < 1:
        raise UnreadableImage(f"{height} x {width} pixels")
    if height * width > MAX_PIXELS:
        raise UnreadableImage("too many pixels: a decompression bomb?")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(f"{height} x {width} pixels: a strip, not an image")


def check_values(shape: tuple[int, ...]) -> None:
    """Refuses empty and huge arrays.

    Raises:
        UnreadableImage: names the shape.
    """
    if min(shape, default=0) < 1:
        raise UnreadableImage(f"an array of {' x '.join(map(str, shape))}")
    if math.prod(shape) > MAX_VALUES:
        raise UnreadableImage("too many values: a decompression bomb?")


class BoundedJpeg:
    """A JPEG whose decoder, which reads it piece by piece, ends after `MAX_SCANS` scans or `MAX_SECONDS` of the processor.

    Time in which a disk does not answer does not count.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read
        self._scans, self._end = 0, time.thread_time() + MAX_SECONDS

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            UnreadableImage: a limit is reached.
        """
        if time.thread_time() > self._end:
            raise UnreadableImage(f"takes longer than {MAX_SECONDS:.0f} s to decode")
        content = self._read(size)
        self._scans += content.count(START_OF_SCAN)
        if self._scans > MAX_SCANS:
            raise UnreadableImage(f"more than {MAX_SCANS} scans: a decompression bomb?")
        return content
