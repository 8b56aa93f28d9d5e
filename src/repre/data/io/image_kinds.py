"""What kind of image a file holds, told from its first bytes."""

HEAD_BYTES = 256
"""First bytes of a file that tell its kind."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow may recognize, for any file ending. Never EPS, which Pillow passes to Ghostscript."""
NUMPY = (b"\x93NUMPY",)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Classic and BigTIFF, in both byte orders."""
PILLOW = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000, and below its bare codestream
    b"\xff\x4f\xff\x51",
)
NETPBM = tuple(b"P%d" % number for number in range(1, 7))
AVIF_BRANDS = (b"avif", b"avis")


def image_kind(head: bytes) -> str:
    """Which decoder reads a file: ``numpy``, ``tiff``, ``dicom``, ``pillow``, or an empty string for anything else.

    A DICOM file may begin with 128 bytes of another format, so the other formats are tried first.

    Args:
        head: the first HEAD_BYTES of the file, or all if it has fewer.
    """
    if head.startswith(NUMPY):
        return "numpy"
    if head.startswith(TIFF):
        return "tiff"
    if _is_pillow(head):
        return "pillow"
    return "dicom" if head[128:132] == b"DICM" else ""


def is_image_content(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an image of a known format; for files without an ending.

    Args:
        head: the first HEAD_BYTES of the file, or all if it has fewer.
    """
    return image_kind(head) != ""


def _is_pillow(head: bytes) -> bool:
    if head.startswith(b"BM"):  # two letters may begin a text; the header's size and the planes are part of the magic
        return len(head) > 27 and head[15:18] == b"\0\0\0" and (head[14] == 12 or head[26:28] == b"\1\0")
    if head.startswith(NETPBM):
        return head[2:3].isspace()
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":  # the size of the box, its type, the major brand, a version, further brands
        end = int.from_bytes(head[:4], "big")
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, min(end, len(head)), 4))]
        return any(brand in brands for brand in AVIF_BRANDS)
    return head.startswith(PILLOW)
