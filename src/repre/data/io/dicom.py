"""DICOM files. The only file that uses pydicom, which is an extra.

Headers hold what patients must not find in a log, so no message here quotes a file's content or an error of pydicom.

    Stored values become modality values by the rescale slope and intercept, or by a table (DICOM PS3.3, C.11.1), and those
    become what is shown by a window or a table (C.11.2).
"""

import logging
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from repre.data.io.frame_notes import note_several_frames
from repre.data.io.image_limits import UnreadableImage, check_shape, check_values
from repre.errors import UserError
from repre.utils.optional_imports import require

Array = np.ndarray

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax of a header packed by deflate, which pydicom would unpack without a limit."""
HEADER = (
    *(
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
    ),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
)
"""What is read of a header; everything else is skipped."""
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it would log values of headers


def require_pydicom(purpose: str = "a DICOM file", module: str = "pydicom") -> ModuleType:
    """Imports pydicom or a part of it; for a check before a source with DICOM files is read.

    Raises:
        UserError: it is missing; says how to install it.
    """
    return require(module, extra="dicom", purpose=purpose)


def read_dicom(file: BinaryIO, *, raw_values: bool = False) -> Array:
    """The first frame of a DICOM file, [H, W] or [H, W, 3]. Notes whether there are more.

    Gray values are shown as the file says: by its first window or table, else over all values of its stored bits; then 0 is
    black and the largest value of the type is white, also where the file says the opposite (MONOCHROME1). The type is
    uint8 for up to 8 stored bits, else uint16. Colors and palettes become RGB in uint8, or in uint16 for more than 8 bits.

    Args:
        file: an open file at its beginning.
        raw_values: returns the modality values of gray frames instead, such as Hounsfield units, in float32; they are
            neither cut to a window nor inverted.

    Raises:
        UnreadableImage: the file is damaged, too large, has no pixels, or needs a package that is missing.
    """
    try:
        filereader, pixels = (require_pydicom(module=f"pydicom.{name}") for name in ("filereader", "pixels"))
    except UserError as error:
        raise UnreadableImage(str(error)) from error
    try:
        header, syntax = _read_header(file, filereader)
        rows, columns, samples = (header.get(name) for name in ("Rows", "Columns", "SamplesPerPixel"))
        if not rows or not columns:
            raise UnreadableImage("DICOM without pixels")
        check_shape(rows, columns)
        check_values((rows, columns, samples or 1))
        _check_decoder(pixels, syntax)
        file.seek(0)
        stored = pixels.pixel_array(file, index=0, transfer_syntax_uid=syntax)
        if int(header.get("NumberOfFrames") or 1) > 1:
            note_several_frames()
        return _finished(stored, header, pixels, raw_values=raw_values, order="<" if syntax.is_little_endian else ">")
    except UnreadableImage:
        raise
    except Exception as error:  # damaged files raise anything, with values of the header in the message
        raise UnreadableImage(f"damaged DICOM, or of a kind that is not read: {type(error).__name__}") from None


def _read_header(file: BinaryIO, filereader: Any) -> tuple[Any, Any]:
    """The elements `HEADER` of a file, those of its first frame in place of those of all frames, and its transfer syntax."""
    whole = filereader.read_preamble(file, True) is not None
    meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, kind, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DEFLATED:
        raise UnreadableImage("DICOM in the transfer syntax Deflated Explicit VR Little Endian, which is not read")
    file.seek(0)
    header = filereader.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(HEADER))
    if not whole and not header:
        raise UnreadableImage("not an image")
    implicit, little = header.original_encoding
    plain = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
    syntax = require_pydicom(module="pydicom.uid").UID(meta.get("TransferSyntaxUID") or plain)
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for frame in (header.get(groups) or [])[:1]:
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (frame.get(name) or [])[:1]:
                    header.update(item)
    return header, syntax


def _check_decoder(pixels: Any, syntax: Any) -> None:
    name = f"DICOM in the transfer syntax {syntax.name[:80]}"
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        raise UnreadableImage(f"{name}, which pydicom does not decode") from None
    if not decoder.is_available:
        plugin = "openjpeg" if "2000" in syntax.name else "libjpeg"
        raise UnreadableImage(f"{name}, which needs: pip install pylibjpeg pylibjpeg-{plugin}")


def _finished(stored: Array, header: Any, pixels: Any, *, raw_values: bool, order: str) -> Array:
    """From stored values to those that `read_dicom` returns; `order` is the byte order of tables, < or >."""
    kind, bits = header.get("PhotometricInterpretation"), header.get("BitsStored") or 0
    if kind == "PALETTE COLOR":
        colors = pixels.apply_color_lut(stored, header)
        return np.asarray(colors)
    if stored.ndim == 3:
        return stored if stored.dtype == np.uint8 else _as_type(stored / (2**bits - 1), bits)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage("DICOM of one channel that is neither gray nor a palette")
    if raw_values:
        return _by_table(stored, lambda values: _modality(values, header, order)[0].astype(np.float32))
    if stored.dtype.kind == "f" and _window(header) is None:
        raise UnreadableImage("DICOM of floats without a window; name the range: --views.value-range LOW HIGH")

    def shown(values: Array) -> Array:
        shares = _shown(*_modality(values, header, order), header, order)
        return _as_type(1 - shares if kind == "MONOCHROME1" else shares, bits)

    return _by_table(stored, shown)


def _by_table(stored: Array, function: Callable[[Array], Array]) -> Array:
    """`function` of every value; of values of up to 16 bits through a table of all, so that no large array is of float64."""
    if stored.dtype.itemsize > 2:
        return function(stored)
    low, high = np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max
    table = function(np.arange(low, high + 1))
    return table[stored.astype(np.int32) - low]


def _as_type(shares: Array, bits: int) -> Array:
    dtype = np.dtype(np.uint8 if 0 < bits <= 8 else np.uint16)
    return np.rint(shares.clip(0, 1) * (2 ** (8 * dtype.itemsize) - 1)).astype(dtype)


def _modality(values: Array, header: Any, order: str) -> tuple[Array, tuple[float, float]]:
    """Modality values in float64, and the lowest and highest of them that the stored bits can express."""
    if header.get("ModalityLUTSequence"):
        found, bits = _look_up(values, header.ModalityLUTSequence[0], order)
        return found, (0, 2**bits - 1)
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept") or 0.0
    if slope == 0:
        raise UnreadableImage("DICOM with a rescale slope of 0")
    slope, bits = 1.0 if slope is None else slope, header.get("BitsStored") or 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.get("PixelRepresentation") else (0, 2**bits - 1)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return values.astype(np.float64) * slope + intercept, (ends[0], ends[1])


def _shown(values: Array, limits: tuple[float, float], header: Any, order: str) -> Array:
    """Modality values as shares of white, by the first table or window of the file, else from limit to limit."""
    if header.get("VOILUTSequence"):
        found, bits = _look_up(values, header.VOILUTSequence[0], order)
        return found / (2**bits - 1)
    window = _window(header)
    if window is None:
        return (values - limits[0]) / (limits[1] - limits[0])
    center, width = window
    function = header.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR":  # of whole numbers: from the middle of the first one to the middle of the last one
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _window(header: Any) -> tuple[float, float] | None:
    """Center and width of the first window; None without one."""
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    return None if center is None or width is None or width <= 0 else (center, width)


def _number(header: Any, name: str) -> float | None:
    """The first number of an element; None if it is missing or empty."""
    value = header.get(name)
    if value is None or value == "":
        return None
    number = float(value if isinstance(value, int | float | str) else value[0])
    if not math.isfinite(number):
        raise UnreadableImage(f"DICOM whose {name} is not finite")
    return number


def _look_up(values: Array, item: Any, order: str) -> tuple[Array, int]:
    """Values through a table of the file, in float64, and the bits of its entries."""
    count, first, bits = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == (count or 2**16) else f"{order}u2")
    table = np.asarray(data, np.float64)
    return table[(values - first).clip(0, len(table) - 1).astype(np.int64)], bits
