"""Whether an image that was decoded is the first of several frames or pages of its file.

`Source.load` returns pixels alone; whoever wants to count such files loads inside `noting_frames`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class FrameNote:
    """What was noted.

    Attributes:
        several: whether a file was decoded that holds frames or pages beside the one that was used.
    """

    several: bool = False


_NOTE: ContextVar[FrameNote | None] = ContextVar("frame_note", default=None)


@contextmanager
def noting_frames() -> Iterator[FrameNote]:
    """Collects what the decoders note inside; an outer note learns of it too."""
    note = FrameNote()
    token = _NOTE.set(note)
    try:
        yield note
    finally:
        _NOTE.reset(token)
        if note.several:
            note_several_frames()


def note_several_frames() -> None:
    """Notes that the file which is decoded holds several frames or pages, and only its first one is used."""
    note = _NOTE.get()
    if note is not None:
        note.several = True


def describe_several(count: int, example: str) -> str:
    """One line about all such files of a source.

    Args:
        count: how many there are, at least one.
        example: name of one.
    """
    files = "1 file holds" if count == 1 else f"{count} files hold"
    return f"{files} several frames or pages, {'' if count == 1 else 'such as '}{example}; only the first one is used"
