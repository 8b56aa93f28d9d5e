"""Checks the pixel values of a few images before a command uses all of them: do they fit the range that stands for 0
to 1?

Files do not say what their values mean: floats may be 0 to 1 or 0 to 255, files of 16 bits may hold 12. Read in the wrong
range, images are nearly black or white, and nothing fails.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import numpy as np

from repre.data.io.image_files import FileSource
from repre.data.io.image_kinds import HEAD_BYTES, image_kind
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.sources import Source
from repre.errors import UserError, counted
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.printable_text import printable

Array = np.ndarray

SAMPLE = 16
"""Images that are looked at."""
VALUES = 100_000
"""Most values of an image that are looked at."""
CLIPPED = 0.01
"""Share of the values that may lie outside of the range of their type."""
ALL_CLIPPED = 0.99
"""From this share of clipped values on, a range that was given is refused."""
USED = {"u1": 1 / 16, "u2": 1 / 4, "f4": 1 / 16}
"""Share of the range of a type that the values of all images must span at least: 12 and 14 bits in 16 do not."""
TYPES = {"u1": (255.0, "8-bit integers"), "u2": (65535.0, "16-bit integers"), "f4": (1.0, "floats")}
"""Highest value by default, and the name of every type that is read."""
BITS = (1, 4, 8, 10, 12, 14, 16)
"""Bits of integers for which a range is proposed."""


class _Values(NamedTuple):
    """What is known of the values of one image."""

    name: str
    kind: str
    low: float
    high: float
    clipped: float
    flat: bool
    fixed: bool
    """Its values follow from what the file says, as those of DICOM files."""


def check_values(
    source: Source,
    value_range: tuple[float, float] | None,
    *,
    option: str = "--views.value-range",
    flat_is_wrong: bool = True,
) -> None:
    """Refuses images whose values do not fit their range, by a sample that is spread over the source.

    Args:
        value_range: the range that the user or the encoder declares, which is taken as it is unless it clips nearly all
            values; None: that of the type of the values.
        option: with which a range is declared.
        flat_is_wrong: also refuse images that have one color each, from which nothing is learned.

    Raises:
        UserError: with the values that were found and the option that fits; or no image of the sample can be read.
    """
    if not isinstance(source, FileSource):
        return
    seen: list[_Values] = []
    reasons: list[str] = []
    for number in evenly_spaced(len(source), SAMPLE):
        try:
            image, fixed = source.load(number), _is_dicom(source, number)
            seen.append(_look(image, source.describe(number), value_range, fixed=fixed))
        except UnreadableImage as error:
            reasons.append(f"{printable(source.describe(number))}: {error}")
    if not seen:
        raise UserError(
            f"none of {len(reasons)} sampled images of {printable(source.spec)} can be read, such as "
            f"{reasons[0]}{_channels_hint(reasons[0])}"
        )
    if value_range is not None:
        _check_given(seen, value_range, option)
        return
    if flat_is_wrong and all(one.flat for one in seen) and len(seen) == min(SAMPLE, len(source)) > 1:
        raise UserError(
            f"all {len(seen)} sampled images of {printable(source.spec)} have one color each, such as "
            f"{seen[0].name}; check the files. {_as_they_are(seen[0].kind, option)}"
        )
    _check_types(seen, option)


class Labeled(Protocol):
    """Images that are read with what is known of their pixels or objects; the image comes first."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Any: ...

    def describe(self, index: int) -> str: ...


def check_labeled_values(source: Labeled, value_range: tuple[float, float] | None, *, option: str) -> None:
    """Does the same for images with masks, depth or boxes, where no range is declared; damaged files are passed over.

    Raises:
        UserError: with the values that were found and the option that fits.
    """
    if value_range is not None:
        return
    seen: list[_Values] = []
    for number in evenly_spaced(len(source), SAMPLE):
        with suppress(UserError):  # of a damaged image or label: the evaluation names all of them
            name = source.describe(number)
            seen.append(_look(source.load(number)[0], name, None, fixed=name.lower().endswith(".dcm")))
    _check_types(seen, option)


def _look(image: Array, name: str, value_range: tuple[float, float] | None, *, fixed: bool) -> _Values:
    flat = bool((image == image[:1, :1]).all())
    kind = image.dtype.str[1:]
    values = image.reshape(-1)[:: max(1, image.size // VALUES)].astype(np.float64)
    low, high = value_range or (0.0, TYPES[kind][0])
    slack = 0.0 if value_range is not None else 0.02 * (high - low)  # of filters that overshoot
    clipped = float(((values < low - slack) | (values > high + slack)).mean())
    return _Values(printable(name), kind, float(values.min()), float(values.max()), clipped, flat, fixed)


def _is_dicom(source: FileSource, number: int) -> bool:
    if source.files.names[number].lower().endswith(".dcm"):
        return True
    with source.files.open(number) as file:
        return image_kind(file.read(HEAD_BYTES)) == "dicom"


def _check_given(seen: Sequence[_Values], value_range: tuple[float, float], option: str) -> None:
    """Refuses a declared range that makes nearly all pixels black or white."""
    clipped = float(np.mean([one.clipped for one in seen]))
    if clipped >= ALL_CLIPPED:
        low, high = _span(seen)
        raise UserError(
            f"{option} {_text(value_range[0])} {_text(value_range[1])} makes {100 * clipped:.0f} % of the values of "
            f"{counted(len(seen), 'sampled image')} black or white: they are {_text(low)} to {_text(high)}; "
            f"give {_proposal(low, high, option)}"
        )


def _check_types(seen: Sequence[_Values], option: str) -> None:
    """Refuses values that do not fit the range of their type."""
    by_kind = {kind: [one for one in seen if one.kind == kind and not one.fixed] for kind in TYPES}
    problems: list[tuple[str, list[_Values]]] = []
    for kind, some in by_kind.items():
        outside = [one for one in some if one.clipped > CLIPPED]
        if outside:
            problems.append((f"outside of 0 to {_text(TYPES[kind][0])}", outside))
        elif some and not all(one.flat for one in some):
            low, high = _span(some)
            if high - low < USED[kind] * TYPES[kind][0]:
                problems.append((f"a small part of 0 to {_text(TYPES[kind][0])}", some))
    if not problems:
        return
    what, wrong = problems[0]
    kind = wrong[0].kind
    low, high = _span(wrong)
    found = (
        f"pixel values of {len(wrong)} of {counted(len(seen), 'sampled image')} are {TYPES[kind][1]} of "
        f"{_text(low)} to {_text(high)}, {what}, such as {wrong[0].name}"
    )
    others = [one for one in seen if one not in wrong and not one.fixed]
    if others and not _alike(wrong, others):
        span = _span(others)
        raise UserError(
            f"{found}; others are {TYPES[others[0].kind][1]} of {_text(span[0])} to {_text(span[1])}, such as "
            f"{others[0].name}. One range cannot fit both: convert some of the files, or choose files of one kind by "
            f"--include or --exclude. {_as_they_are(kind, option)}"
        )
    labels = ", or are these label images?" if kind == "u1" else "."
    raise UserError(f"{found}; give {_proposal(*_span(seen), option)}{labels} {_as_they_are(kind, option)}")


def _alike(some: Sequence[_Values], others: Sequence[_Values]) -> bool:
    """Whether one range serves both: of one type, and the others fill enough of it."""
    (low, high), (other_low, other_high) = _span(some), _span(others)
    return some[0].kind == others[0].kind and high - low <= 16 * max(other_high - other_low, 1e-12)


def _span(seen: Sequence[_Values]) -> tuple[float, float]:
    return min(one.low for one in seen), max(one.high for one in seen)


def _as_they_are(kind: str, option: str) -> str:
    return f"{option} 0 {_text(TYPES[kind][0])} uses the values as they are"


def _proposal(low: float, high: float, option: str) -> str:
    low, high = fitting_range(low, high)
    return f"{option} {_text(low)} {_text(high)}"


def fitting_range(low: float, high: float) -> tuple[float, float]:
    """A round range that holds the values `low` to `high`: of some bits, symmetric, from 0 on, or just wide enough."""
    if low >= 0 and (low < 1 / 4 * high or low == high):
        if high <= 1:
            return 0.0, _round_up(high) if 0 < high < 1 / 2 else 1.0
        if 64 < high <= 255:
            return 0.0, 255.0
        return 0.0, min([2.0**bits - 1 for bits in BITS if 2**bits - 1 >= high] + [_round_up(high)])
    if low < 0 < high and 1 / 2 <= -low / high <= 2:
        top = _round_up(max(-low, high))
        return -top, top
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12)) - 1)
    return step * math.floor(low / step), step * math.ceil(high / step + (high == low))


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5 and 10 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(max(value, 1e-12)))
    return next(unit * factor for factor in (1, 1.5, 2, 3, 5, 10) if unit * factor >= value)


def _text(value: float) -> str:
    """A number as one writes it on a command line."""
    return f"{value:.6g}" if abs(value) < 1e6 else str(round(value))


def _channels_hint(reason: str) -> str:
    return "; give the channels of the files with --encoder.channels" * ("channels" in reason)
