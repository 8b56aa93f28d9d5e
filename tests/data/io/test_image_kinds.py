"""Files are told apart by their first bytes: every format that is read, and none of its neighbors."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from repre.data.io.decode import FORMATS
from repre.data.io.image_kinds import HEAD_BYTES, image_kind, is_image_content


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_pillow_writes_is_recognized(name: str, mode: str) -> None:
    file = io.BytesIO()
    Image.new("RGB" if mode == "1" and name in ("JPEG", "JPEG2000") else mode, (30, 20)).save(file, name)
    assert image_kind(file.getvalue()[:HEAD_BYTES]) == ("tiff" if name == "TIFF" else "pillow")


def test_animated_avif_is_recognized() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "AVIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert image_kind(file.getvalue()[:HEAD_BYTES]) == "pillow"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_header_of_tiff_is_recognized(byteorder: str, bigtiff: bool) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8), bigtiff=bigtiff, byteorder=byteorder)
    assert image_kind(file.getvalue()[:HEAD_BYTES]) == "tiff"


def test_numpy_and_dicom_are_recognized() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4), np.uint8))
    assert image_kind(file.getvalue()) == "numpy"
    assert image_kind(bytes(128) + b"DICM") == "dicom"
    assert image_kind(b"II*\0" + bytes(124) + b"DICM") == "tiff", "a slide that is both"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"B",
        b"BM",
        b"P5",
        b"II",
        b"hello, this is a text",
        b"BM is how this text begins, and it goes on for a while",
        b"P65 is a road",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x10ftypisom\0\0\0\0avif",  # after the box of brands
        b"PK\3\4",
        b"\x89HDF\r\n\x1a\n",
        bytes(256),
    ],
)
def test_other_files_are_not(head: bytes) -> None:
    assert not is_image_content(head)
