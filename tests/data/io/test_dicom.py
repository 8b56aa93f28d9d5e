"""DICOM against formulas of the standard on hand-made files; every fault is one reason without a word of the patient."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

from repre.data.io.decode import UnreadableImage, read_image
from repre.data.io.dicom import require_pydicom
from repre.data.io.frame_notes import noting_frames
from repre.errors import UserError

PATIENT = "Secret^Name"
CT = np.random.default_rng(0).integers(0, 4096, (24, 32)).astype(np.uint16)
COLOR = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def dataset(pixels: np.ndarray, *, syntax: Any = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A file of pixels [H, W] or [H, W, 3] (a list of frames with NumberOfFrames) with these elements."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    made.PatientName = PATIENT
    shape = pixels.shape[1:] if "NumberOfFrames" in elements else pixels.shape
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if made.SamplesPerPixel == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "RGB" if made.SamplesPerPixel == 3 else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(made, name, value)
    made.HighBit = made.BitsStored - 1
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    made.PixelData = elements.get("PixelData", pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    made["PixelData"].VR = "OB" if syntax.is_encapsulated or pixels.dtype.itemsize == 1 else "OW"
    return made


def packed(made: Dataset) -> io.BytesIO:
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    file.seek(0)
    return file


def read(pixels: np.ndarray, *, raw_values: bool = False, channels: int = 1, **elements: Any) -> np.ndarray:
    image = read_image(packed(dataset(pixels, **elements)), channels=channels, raw_values=raw_values)
    return image[..., 0] if channels == 1 else image


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3, C.11.2.1.2.1, value by value."""
    shares = np.zeros(values.shape)
    for place, x in np.ndenumerate(values):
        if x <= center - 0.5 - (width - 1) / 2:
            shares[place] = 0
        elif x > center - 0.5 + (width - 1) / 2:
            shares[place] = 1
        else:
            shares[place] = (x - (center - 0.5)) / (width - 1) + 0.5
    return shares


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["explicit", "implicit", "big"]
)
def test_the_window_of_a_ct(syntax: Any) -> None:
    window = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [40, 300], "WindowWidth": [400, 1500]}
    shown = read(CT, BitsStored=12, syntax=syntax, **window)
    assert shown.dtype == np.uint16
    assert np.array_equal(shown, np.rint(linear(CT.astype(float) - 1024, 40, 400) * 65535))
    inverted = read(CT, BitsStored=12, syntax=syntax, PhotometricInterpretation="MONOCHROME1", **window)
    assert np.abs(inverted.astype(int) - (65535 - shown.astype(int))).max() <= 1, "a half is rounded to even"
    raw = read(CT, raw_values=True, BitsStored=12, syntax=syntax, **window)
    assert raw.dtype == np.float32
    assert np.array_equal(raw, CT.astype(np.float32) - 1024), "Hounsfield units"
    assert read(CT, channels=3, BitsStored=12, syntax=syntax, **window).shape == (24, 32, 3)


@pytest.mark.parametrize("width", [1, 2, 401])
@pytest.mark.parametrize("function", [None, "LINEAR_EXACT", "SIGMOID"])
def test_the_functions_of_a_window(function: str | None, width: int) -> None:
    values, center = CT.astype(float), 2000.0
    wanted = {
        None: linear(values, center, width),
        "LINEAR_EXACT": ((values - center) / width + 0.5).clip(0, 1),
        "SIGMOID": 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700))),
    }[function]
    elements = {"VOILUTFunction": function} if function else {}
    shown = read(CT, WindowCenter=center, WindowWidth=width, **elements)
    assert np.array_equal(shown, np.rint(wanted * 65535))


def test_without_a_window_all_values_of_the_stored_bits_are_shown() -> None:
    gray = COLOR[..., 0]
    assert np.array_equal(read(gray), gray)
    assert read(gray).dtype == np.uint8
    assert np.array_equal(read(CT, BitsStored=12), np.rint(CT / 4095 * 65535))
    signed = (CT.astype(int) - 2048).astype(np.int16)
    assert np.array_equal(read(signed, BitsStored=12), np.rint(CT / 4095 * 65535))
    falling = read(CT, BitsStored=12, RescaleSlope=-2, RescaleIntercept=5)
    assert np.array_equal(falling, np.rint((4095 - CT.astype(int)) / 4095 * 65535))
    assert np.array_equal(read(gray, WindowCenter="", WindowWidth=None), gray), "empty elements"
    assert np.array_equal(read(gray, raw_values=True), gray.astype(np.float32))


def table(values: np.ndarray, *, first: int, bits: int, kind: str) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", kind, values.tolist() if kind == "US" else values.astype("<u2").tobytes())
    return Sequence([item])


@pytest.mark.parametrize("kind", ["US", "OW"])
def test_tables_in_place_of_slope_and_window(kind: str) -> None:
    curve = (np.arange(1000) ** 1.1 / 2).astype(np.uint16)
    wanted = curve[(CT.astype(int) - 500).clip(0, 999)]
    shown = read(CT, VOILUTSequence=table(curve, first=500, bits=10, kind=kind))
    assert np.array_equal(shown, np.rint((wanted / 1023).clip(0, 1) * 65535))
    modality = table(curve, first=500, bits=10, kind=kind)
    assert np.array_equal(read(CT, raw_values=True, ModalityLUTSequence=modality), wanted)
    shown = read(CT, ModalityLUTSequence=modality, WindowCenter=400, WindowWidth=200)
    assert np.array_equal(shown, np.rint(linear(wanted, 400, 200) * 65535))


def test_colors_become_rgb() -> None:
    assert np.array_equal(read(COLOR, channels=3), COLOR)
    assert np.array_equal(read(COLOR, channels=3, raw_values=True), COLOR)
    planes = read(COLOR, channels=3, PlanarConfiguration=1, PixelData=COLOR.transpose(2, 0, 1).tobytes())
    assert np.array_equal(planes, COLOR)
    ybr = np.asarray(Image.fromarray(COLOR).convert("YCbCr"))
    assert np.abs(read(ybr, channels=3, PhotometricInterpretation="YBR_FULL").astype(int) - COLOR).max() <= 3
    gray = np.asarray(Image.fromarray(COLOR).convert("L"))
    assert np.array_equal(read(COLOR, channels=1), gray), "as of any color image"
    palette = {
        f"{name}PaletteColorLookupTable{part}": value
        for number, name in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [256, 0, 8]),
            ("Data", np.roll(np.arange(256), number).astype("u1").tobytes()),
        )
    }
    indices = COLOR[..., 0]
    shown = read(indices, channels=3, PhotometricInterpretation="PALETTE COLOR", **palette)
    assert np.array_equal(shown, np.stack([indices, indices - np.uint8(1), indices - np.uint8(2)], axis=-1))


def test_the_first_of_several_frames() -> None:
    frames = np.stack([CT, CT[::-1], CT // 2])
    with noting_frames() as note:
        assert np.array_equal(read(frames, NumberOfFrames=3, raw_values=True), CT)
    assert note.several
    with noting_frames() as note:
        read(CT)
    assert not note.several
    many = dataset(frames, NumberOfFrames=3)
    for group, intercept, center in (("Shared", -7, 90), ("PerFrame", -1024, 40)):  # a frame's own ones count
        frame, change, window = Dataset(), Dataset(), Dataset()
        change.RescaleSlope, change.RescaleIntercept, change.RescaleType = 1, intercept, "HU"
        window.WindowCenter, window.WindowWidth = center, 400
        frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = Sequence([change]), Sequence([window])
        setattr(many, f"{group}FunctionalGroupsSequence", Sequence([frame]))
    shown = read_image(packed(many), channels=1)[..., 0]
    assert np.array_equal(shown, np.rint(linear(CT.astype(float) - 1024, 40, 400) * 65535))


@pytest.mark.parametrize(("syntax", "name"), [(JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")])
def test_what_pillow_unpacks(syntax: Any, name: str) -> None:
    gray = np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)
    streams = []
    for frame in (gray, gray[::-1]):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(file, name)
        streams.append(file.getvalue())
    several = {"NumberOfFrames": 2, "PixelData": encapsulate(streams)}
    shown = read(np.stack([gray, gray]), syntax=syntax, **several)
    assert np.abs(shown.astype(int) - gray).max() <= (6 if name == "JPEG" else 0)


def test_floats_need_a_window() -> None:
    floats = np.linspace(-3, 5, 24 * 32).reshape(24, 32).astype(np.float32)
    made = dataset(CT, BitsAllocated=32)
    del made.PixelData, made.BitsStored, made.HighBit, made.PixelRepresentation
    made.FloatPixelData = floats.tobytes()
    with pytest.raises(UnreadableImage, match=r"--views\.value-range"):
        read_image(packed(made), channels=1)
    assert np.array_equal(read_image(packed(made), channels=1, raw_values=True)[..., 0], floats)
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = 1, 4, "LINEAR_EXACT"
    shown = read_image(packed(made), channels=1)[..., 0]
    assert np.array_equal(shown, np.rint(((floats.astype(float) - 1) / 4 + 0.5).clip(0, 1) * 65535))


def no_syntax(made: Dataset) -> None:
    made.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    made.PixelData = encapsulate([b"\xff\xd8\xff\xc3"])
    made["PixelData"].VR = "OB"


def deflated(made: Dataset) -> None:
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def change(**elements: Any) -> Callable[[Dataset], None]:
    def apply(made: Dataset) -> None:
        for name, value in elements.items():
            setattr(made, name, value)

    return apply


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (no_syntax, "JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"),
        (deflated, "Deflated"),
        (change(Rows=60000, Columns=60000), "bomb"),
        (change(Rows=1000, Columns=2), "strip"),
        (change(Rows=0), "without pixels"),
        (change(Rows=240, Columns=320), "damaged DICOM"),
        (change(RescaleSlope=0, RescaleIntercept=1), "slope of 0"),
        (change(RescaleSlope="1e999", RescaleIntercept=1), "RescaleSlope is not finite"),
        (change(PhotometricInterpretation="YBR_ICT"), "neither gray"),
        (change(BitsAllocated=12), "damaged DICOM"),
    ],
)
def test_faults_are_named_without_the_patient(fault: Callable[[Dataset], None], words: str) -> None:
    made = dataset(CT)
    fault(made)
    with pytest.raises(UnreadableImage, match=words) as error:
        read_image(packed(made))
    assert "Secret" not in str(error.value)


def test_any_damage_is_one_reason() -> None:
    whole = packed(dataset(CT, WindowCenter=40, WindowWidth=400)).getvalue()
    random = np.random.default_rng(0)
    reasons = []
    for number in range(150):
        broken = bytearray(whole[: random.integers(140, len(whole))] if number % 3 == 0 else whole)
        for place in random.integers(132, min(len(broken), 700), 4):
            broken[place] = random.integers(256)
        try:
            read_image(io.BytesIO(bytes(broken)))
        except UnreadableImage as error:
            reasons.append(str(error))
    assert len(reasons) > 20
    assert not [reason for reason in reasons if "Secret" in reason]


def test_the_ending_stands_in_for_a_missing_preamble(tmp_path: Path) -> None:
    bare = packed(dataset(CT)).getvalue()[132:]
    (tmp_path / "a.DCM").write_bytes(bare)
    assert np.array_equal(read_image(tmp_path / "a.DCM", channels=1)[..., 0], CT)
    assert np.array_equal(read_image(io.BytesIO(bare), name="shard.tar: b.dcm", channels=1)[..., 0], CT)
    start = bare.index(b"\x08\x00\x16\x00UI")
    (tmp_path / "a.DCM").write_bytes(bare[start:])  # of before DICOM's own files: no transfer syntax
    assert np.array_equal(read_image(tmp_path / "a.DCM", channels=1)[..., 0], CT)
    for content in (b"hello", b"<html>" + bytes(500)):
        (tmp_path / "a.DCM").write_bytes(content)
        with pytest.raises(UnreadableImage):
            read_image(tmp_path / "a.DCM")
    with pytest.raises(UnreadableImage, match="not an image"):
        read_image(io.BytesIO(bare))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    file = packed(dataset(CT))
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"--data xrays needs pydicom.*pip install"):
        require_pydicom("--data xrays")
    with pytest.raises(UnreadableImage, match=r"pydicom.*pip install"):
        read_image(file)
